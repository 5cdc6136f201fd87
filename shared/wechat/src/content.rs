//! What WeChat says of text that people write for others to read.
//!
//! Source: developers.weixin.qq.com/miniprogram/dev/OpenApiDoc/sec-center/sec-check/msgSecCheck.

use serde::Deserialize;
use serde_json::json;

use crate::open::{Client, Error, read};

const CHECK: &str = "/wxa/msg_sec_check";

/// The longest text that is checked, in characters.
pub const TEXT_MAX: usize = 2500;

/// Where the text will be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scene {
    /// On a person's profile.
    Profile,
    /// Among comments.
    Comment,
    /// In a forum.
    Forum,
    /// In a social log.
    SocialLog,
}

impl Scene {
    fn number(self) -> u8 {
        match self {
            Self::Profile => 1,
            Self::Comment => 2,
            Self::Forum => 3,
            Self::SocialLog => 4,
        }
    }
}

/// What to do with a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Suggestion {
    /// Publish it.
    Pass,
    /// A person should look; also what WeChat may say one day that this version does not know.
    Review,
    /// Do not publish it.
    Risky,
}

/// What is checked.
#[derive(Clone, Copy, Debug)]
pub struct Written<'a> {
    /// Who wrote it, and has opened the mini program within two hours (61010 otherwise).
    pub openid: &'a str,
    /// Where it will be read.
    pub scene: Scene,
    /// 1 to [`TEXT_MAX`] characters.
    pub content: &'a str,
    /// The name that is shown with it.
    pub nickname: Option<&'a str>,
}

impl Client {
    /// Ask whether a text may be published. It changes nothing, so it may be repeated.
    pub async fn check_text(&self, written: &Written<'_>) -> Result<Suggestion, Error> {
        #[derive(Deserialize)]
        struct Answer {
            result: Judged,
        }
        #[derive(Deserialize)]
        struct Judged {
            suggest: String,
        }
        if written.content.is_empty() || written.content.chars().count() > TEXT_MAX {
            return Err(Error::Misuse("the text to check is empty or too long"));
        }
        let mut body = json!({
            "version": 2,
            "openid": written.openid,
            "scene": written.scene.number(),
            "content": written.content,
        });
        if let (Some(nickname), Some(fields)) = (written.nickname, body.as_object_mut()) {
            fields.insert("nickname".to_owned(), nickname.into());
        }
        let Answer { result } = read(self.post(CHECK, &body).await?, "content check")?;
        Ok(match result.suggest.as_str() {
            "pass" => Suggestion::Pass,
            "risky" => Suggestion::Risky,
            _ => Suggestion::Review,
        })
    }
}
