//! Notices to the merchant: built, encrypted, signed and sent, properly or with a chosen defect.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use chrono::TimeDelta;
use futures_util::future::join_all;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::crypto::{Signer, encrypt, random_hex};
use crate::{Error, Sim, beijing};

/// What becomes of a notice.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum NoticeMode {
    /// Sent once.
    #[default]
    Once,
    /// Lost.
    None,
    /// The same notice several times at the same moment, each with its own signature.
    Duplicate,
    /// One character of the body changed after signing; the resource still decrypts.
    Tampered,
    /// A probe: the signature begins with `WECHATPAY/SIGNTEST/` and is wrong.
    #[serde(rename = "signtest")]
    SignTest,
    /// The notice names one fen more than the ledger holds.
    WrongAmount,
    /// Properly signed, ten minutes ago.
    Stale,
    /// Signed with an unknown key under a serial nobody issued.
    UnknownSerial,
    /// Signed with an unknown key under the serial of the public key.
    WrongKey,
    /// Properly signed, with the platform certificate instead of the public key.
    Certificate,
    /// Properly signed, but the ciphertext's tag does not match.
    BrokenCiphertext,
    /// Names another mini program.
    WrongAppid,
    /// Names another merchant.
    WrongMchid,
}

/// The merchant's answer to one delivery.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct NoticeResult {
    /// HTTP status; absent if there was no answer within five seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// Body of the answer as text, cut at 2 000 characters.
    pub body: String,
    /// Why there was no answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

impl NoticeResult {
    fn accepted(&self) -> bool {
        self.status.is_some_and(|status| (200..300).contains(&status))
    }
}

/// What a notice tells.
pub(crate) struct Event {
    pub(crate) event_type: &'static str,
    /// `transaction` or `refund`; also the associated data.
    pub(crate) original_type: &'static str,
    pub(crate) summary: &'static str,
    pub(crate) plaintext: Value,
}

/// The first repeats come after 15 s, 15 s, 30 s, 3 min, 10 min and 20 min; here a thousand times faster.
const RETRY_AFTER_MS: [u64; 6] = [15, 15, 30, 180, 600, 1_200];
/// Deliveries of one notice at the same moment.
const TIMES_MAX: u32 = 50;
const BODY_MAX: usize = 2_000;

impl Sim {
    /// Sends a notice and collects the merchant's answers, in order of sending.
    pub(crate) async fn notify(
        &self,
        url: &str,
        event: &Event,
        mode: NoticeMode,
        times: Option<u32>,
        retry: bool,
    ) -> Result<Vec<NoticeResult>, Error> {
        let times = match mode {
            NoticeMode::None => return Ok(Vec::new()),
            NoticeMode::Duplicate => times.unwrap_or(2),
            _ => times.unwrap_or(1),
        };
        let body = self.notice_body(event, mode)?;
        let deliveries = (0..times.min(TIMES_MAX)).map(|_| self.deliver(url, &body, mode));
        let mut results = join_all(deliveries).await.into_iter().collect::<Result<Vec<_>, _>>()?;
        if retry {
            for wait in RETRY_AFTER_MS {
                if results.iter().any(NoticeResult::accepted) {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(wait)).await;
                // Probes and accidents are not repeated: the re-send is signed afresh and properly.
                let mode = if mode == NoticeMode::SignTest { NoticeMode::Once } else { mode };
                results.push(self.deliver(url, &body, mode).await?);
            }
        }
        Ok(results)
    }

    fn notice_body(&self, event: &Event, mode: NoticeMode) -> Result<String, Error> {
        let mut plaintext = event.plaintext.clone();
        if let Some(fields) = plaintext.as_object_mut() {
            match mode {
                NoticeMode::WrongAmount => {
                    // A refund notice is wrong in what it gives back, a payment in what it took.
                    let name = if event.original_type == "refund" { "refund" } else { "total" };
                    if let Some(amount) = fields.get_mut("amount").and_then(|amount| amount.get_mut(name)) {
                        *amount = json!(amount.as_i64().unwrap_or(0).saturating_add(1));
                    }
                }
                NoticeMode::WrongAppid => {
                    fields.insert("appid".to_owned(), json!("wxother0000000009"));
                }
                NoticeMode::WrongMchid => {
                    fields.insert("mchid".to_owned(), json!("1900000009"));
                }
                _ => {}
            }
        }
        let nonce: String = random_hex::<6>();
        let mut ciphertext = encrypt(&nonce, event.original_type, &serde_json::to_vec(&plaintext)?)?;
        if mode == NoticeMode::BrokenCiphertext {
            let mut raw = STANDARD.decode(&ciphertext).map_err(|_| Error::Crypto("ciphertext"))?;
            if let Some(last) = raw.last_mut() {
                *last ^= 1;
            }
            ciphertext = STANDARD.encode(raw);
        }
        let id = random_hex::<16>();
        let body = json!({
            "id": notice_id(&id),
            "create_time": beijing(self.now()),
            "resource_type": "encrypt-resource",
            "event_type": event.event_type,
            "summary": event.summary,
            "resource": {
                "original_type": event.original_type,
                "algorithm": "AEAD_AES_256_GCM",
                "ciphertext": ciphertext,
                "associated_data": event.original_type,
                "nonce": nonce,
            },
        });
        Ok(body.to_string())
    }

    async fn deliver(&self, url: &str, body: &str, mode: NoticeMode) -> Result<NoticeResult, Error> {
        let signer = match mode {
            NoticeMode::Certificate => Signer::Certificate,
            NoticeMode::UnknownSerial => Signer::Unknown,
            NoticeMode::WrongKey => Signer::Wrong,
            _ => Signer::PublicKey,
        };
        let sent_at = if mode == NoticeMode::Stale { self.now() - TimeDelta::minutes(10) } else { self.now() };
        let timestamp = sent_at.timestamp().to_string();
        let nonce = random_hex::<16>();
        let signature = if mode == NoticeMode::SignTest {
            format!("WECHATPAY/SIGNTEST/{}", STANDARD.encode(rand::random::<[u8; 32]>()))
        } else {
            self.keyring().sign(signer, format!("{timestamp}\n{nonce}\n{body}\n").as_bytes())?
        };
        // The id is neither encrypted nor needed to read the rest: only the signature can tell.
        let sent = if mode == NoticeMode::Tampered {
            body.replacen("\"id\":\"EV-", "\"id\":\"EW-", 1)
        } else {
            body.to_owned()
        };
        let answer = self
            .http()
            .post(url)
            .header("Content-Type", "application/json")
            .header("User-Agent", "Mozilla/4.0")
            .header("Accept", "*/*")
            .header("Wechatpay-Timestamp", &timestamp)
            .header("Wechatpay-Nonce", &nonce)
            .header("Wechatpay-Serial", signer.serial())
            .header("Wechatpay-Signature", &signature)
            .header("Wechatpay-Signature-Type", "WECHATPAY2-SHA256-RSA2048")
            .header("Request-ID", random_hex::<16>())
            .body(sent)
            .send()
            .await;
        Ok(match answer {
            Ok(response) => {
                let status = Some(response.status().as_u16());
                match response.text().await {
                    Ok(text) => NoticeResult { status, body: text.chars().take(BODY_MAX).collect(), error: None },
                    Err(error) => NoticeResult { status, body: String::new(), error: Some(error.to_string()) },
                }
            }
            Err(error) => NoticeResult { status: None, body: String::new(), error: Some(format!("{error:?}")) },
        })
    }
}

/// 36 characters, the longest a real id may be.
fn notice_id(hex: &str) -> String {
    format!("EV-{hex}").chars().take(36).collect()
}
