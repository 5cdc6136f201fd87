//! Text messages to staff, where no message of the mini-program reaches them.

use domain::StaffId;
use providers::sms::{SmsError, TencentSms};
use serde::{Deserialize, Serialize};
use store::members::Phone;

use crate::delivery::{Outcome, Why};

/// `outbox.kind` of a text message.
pub const KIND: &str = "sms";

/// One text message. The phone is in it, because it must go where the person was reached when it was planned.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Text {
    pub staff_id: StaffId,
    pub phone: Phone,
    /// The approved template.
    pub template_id: String,
    /// Its variables, in order.
    pub params: Vec<String>,
    /// The customers that it is about.
    pub customer_ids: Vec<String>,
}

/// Sends one text message, once. Nothing tells afterwards whether one whose answer was lost has arrived, so it is not sent again.
pub async fn deliver(client: &TencentSms, text: &Text) -> Outcome {
    let params: Vec<&str> = text.params.iter().map(String::as_str).collect();
    match client.send(&text.phone.0, &text.template_id, &params).await {
        Ok(receipt) => {
            tracing::info!(serial_no = receipt.serial_no, "a text message was sent");
            Outcome::Delivered
        }
        Err(error) => after(&error),
    }
}

fn after(error: &SmsError) -> Outcome {
    let why = |reason| Why::new(reason, error.to_string());
    if error.outcome_unknown() {
        return Outcome::Unknown(why("OUTCOME_UNKNOWN"));
    }
    match error {
        SmsError::Unsubscribed(_) => Outcome::Skipped(why("PHONE_UNSUBSCRIBED")),
        SmsError::InvalidNumber(_) => Outcome::Dead(why("PHONE_INVALID")),
        SmsError::RateLimited { retry_after, .. } => Outcome::Later { why: why("SMS_LIMIT"), at_least: *retry_after },
        error if error.is_retryable() => Outcome::later(why("SMS_BUSY")),
        SmsError::Config(_) | SmsError::Misuse(_) | SmsError::Build(_) => Outcome::Dead(why("SMS_CONFIG")),
        _ => Outcome::Dead(why("REFUSED_BY_SMS")),
    }
}

#[cfg(test)]
mod tests {
    use providers::sms::Said;

    use super::*;

    fn said() -> Said {
        Said { code: "X".to_owned(), request_id: "-".to_owned() }
    }

    #[test]
    fn only_what_was_certainly_not_sent_is_sent_again() {
        assert!(matches!(after(&SmsError::Internal(said())), Outcome::Unknown(_)));
        assert!(matches!(after(&SmsError::Malformed("half")), Outcome::Unknown(_)));
        assert!(matches!(after(&SmsError::Busy(said())), Outcome::Later { .. }));
        assert!(matches!(after(&SmsError::Config(said())), Outcome::Dead(_)));
        assert!(matches!(after(&SmsError::Unsubscribed(said())), Outcome::Skipped(_)));
    }
}
