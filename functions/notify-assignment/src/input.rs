//! From what the CRM sends to assignments, each complaint naming its field.

use chrono::{DateTime, SubsecRound, Utc};
use domain::{CustomerId, OpenId, Refusal, StaffId, text};
use schemars::JsonSchema;
use serde::Deserialize;
use shop::assignments::{Assigned, Assignee};

/// Assignments of one call.
const ASSIGNMENTS_MAX: usize = 100;
/// Characters of a name, a source or a remark. Messages show fewer; this is what is still plausible.
const TEXT_MAX: usize = 200;
const PHONE_MAX: usize = 32;

#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Input {
    /// 1 to 100; or the fields of a single one beside it.
    assignments: Option<Vec<Entry>>,
    /// False = answer as soon as everything is planned, without a first try.
    pub(crate) wait: Option<bool>,

    customer_id: Option<String>,
    customer_name: Option<String>,
    customer_phone: Option<String>,
    assigned_to_user_id: Option<String>,
    assigned_to_open_id: Option<String>,
    assigned_by_name: Option<String>,
    assigned_at: Option<String>,
    source: Option<String>,
    remark: Option<String>,
}

/// One customer assigned to one person.
#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct Entry {
    customer_id: String,
    /// Any script, emoji included; up to 200 characters. What a template's field cannot hold is cut off.
    customer_name: String,
    /// As the template shows it; not checked.
    customer_phone: Option<String>,
    /// Either this, an id of `staff`, or `assignedToOpenId`.
    assigned_to_user_id: Option<String>,
    assigned_to_open_id: Option<String>,
    assigned_by_name: Option<String>,
    /// ISO 8601 with its zone. With it the assignment is told once for good, without it once in ten minutes.
    assigned_at: Option<String>,
    source: Option<String>,
    remark: Option<String>,
}

impl Input {
    pub(crate) fn parse(self) -> Result<Vec<Assigned>, Refusal> {
        let alone = self.customer_id.is_some()
            || self.customer_name.is_some()
            || self.assigned_to_user_id.is_some()
            || self.assigned_to_open_id.is_some();
        let entries = match self.assignments {
            Some(_) if alone => {
                return Err(Refusal::invalid("assignments", "请只用 assignments 或单个分配之一"));
            }
            Some(entries) if (1..=ASSIGNMENTS_MAX).contains(&entries.len()) => entries,
            Some(_) => {
                return Err(Refusal::invalid("assignments", format!("assignments 应有 1 到 {ASSIGNMENTS_MAX} 项")));
            }
            None if !alone => return Err(Refusal::invalid("assignments", "缺少字段 assignments")),
            None => {
                let missing = |field: &str| Refusal::invalid(field, format!("缺少字段 {field}"));
                let one = Entry {
                    customer_id: self.customer_id.ok_or_else(|| missing("customerId"))?,
                    customer_name: self.customer_name.ok_or_else(|| missing("customerName"))?,
                    customer_phone: self.customer_phone,
                    assigned_to_user_id: self.assigned_to_user_id,
                    assigned_to_open_id: self.assigned_to_open_id,
                    assigned_by_name: self.assigned_by_name,
                    assigned_at: self.assigned_at,
                    source: self.source,
                    remark: self.remark,
                };
                return Ok(vec![one.parse("")?]);
            }
        };
        entries.into_iter().enumerate().map(|(at, entry)| entry.parse(&format!("assignments[{at}]."))).collect()
    }
}

impl Entry {
    fn parse(self, path: &str) -> Result<Assigned, Refusal> {
        let field = |name: &str| format!("{path}{name}");
        let bad = |name: &str| Refusal::invalid(&field(name), format!("{} 格式不正确", field(name)));
        let short = |name: &str, given: &Option<String>, max: usize| match given {
            None => Ok(None),
            Some(given) => text::clean(&field(name), given, max).map(|text| Some(text).filter(|text| !text.is_empty())),
        };
        let assignee = match (given(&self.assigned_to_user_id), given(&self.assigned_to_open_id)) {
            (Some(id), None) => Assignee::Staff(StaffId::parse(id).map_err(|_| bad("assignedToUserId"))?),
            (None, Some(id)) => Assignee::OpenId(OpenId::parse(id).map_err(|_| bad("assignedToOpenId"))?),
            _ => {
                let reason = "请指定 assignedToUserId 或 assignedToOpenId 之一";
                return Err(Refusal::invalid(&field("assignedToUserId"), reason));
            }
        };
        let assigned_at = match given(&self.assigned_at) {
            None => None,
            Some(text) => {
                let at = DateTime::parse_from_rfc3339(text).map_err(|_| bad("assignedAt"))?;
                Some(at.with_timezone(&Utc).trunc_subsecs(3))
            }
        };
        Ok(Assigned {
            customer_id: CustomerId::parse(self.customer_id.trim()).map_err(|_| bad("customerId"))?,
            customer_name: text::required(&field("customerName"), &self.customer_name, TEXT_MAX)?,
            customer_phone: short("customerPhone", &self.customer_phone, PHONE_MAX)?,
            assignee,
            assigned_by: short("assignedByName", &self.assigned_by_name, TEXT_MAX)?,
            assigned_at,
            source: short("source", &self.source, TEXT_MAX)?,
            remark: short("remark", &self.remark, TEXT_MAX)?,
        })
    }
}

/// An empty text counts as none.
fn given(field: &Option<String>) -> Option<&str> {
    field.as_deref().map(str::trim).filter(|text| !text.is_empty())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn field(event: Value) -> String {
        let input: Input = serde_json::from_value(event).unwrap();
        match input.parse() {
            Ok(_) => String::new(),
            Err(refusal) => refusal.details["field"].as_str().unwrap_or_default().to_owned(),
        }
    }

    fn with(name: &str, value: Value) -> Value {
        let mut one = json!({ "customerId": "c-1", "customerName": "王小明", "assignedToUserId": "s-li" });
        one[name] = value;
        one
    }

    #[test]
    fn what_people_are_called_is_taken_as_it_is() {
        for name in ["王小明", "👨‍👩‍👧‍👦 一家", &"长".repeat(200), "O'Neil\n", "a"] {
            assert_eq!(field(with("customerName", json!(name))), "", "{name}");
        }
        for (name, value) in [("customerPhone", json!("")), ("customerPhone", Value::Null), ("remark", json!("🌶️"))]
        {
            assert_eq!(field(with(name, value)), "", "{name}");
        }
        assert_eq!(field(with("assignedAt", json!("2026-11-21T18:00:00+08:00"))), "");
    }

    #[test]
    fn complaints_name_the_field() {
        for (name, value) in [
            ("customerId", json!("a b")),
            ("customerName", json!(" ")),
            ("customerName", json!("长".repeat(201))),
            ("customerName", json!("a\u{0}b")),
            ("customerPhone", json!("1".repeat(33))),
            ("assignedToUserId", json!("李 导购")),
            ("assignedAt", json!("2026-11-21")),
            ("assignedAt", json!("2026-11-21 18:00:00")),
            ("source", json!("长".repeat(201))),
        ] {
            assert_eq!(field(with(name, value.clone())), name, "{value}");
            let good = with("remark", json!("x"));
            let list = json!({ "assignments": [good, with(name, value.clone())] });
            assert_eq!(field(list), format!("assignments[1].{name}"), "{value}");
        }
        assert_eq!(field(with("assignedToOpenId", json!("o-x"))), "assignedToUserId");
        assert_eq!(field(with("assignedToUserId", json!(""))), "assignedToUserId");
    }

    #[test]
    fn one_to_a_hundred_in_one_way() {
        let one = with("remark", json!("x"));
        let list = |n: usize| json!({ "assignments": vec![one.clone(); n] });
        assert_eq!((field(list(1)), field(list(100))), (String::new(), String::new()));
        let mut both = list(1);
        both["customerId"] = json!("c-1");
        for event in [list(0), list(101), json!({}), both] {
            assert_eq!(field(event), "assignments");
        }
        assert_eq!(field(json!({ "customerId": "c-1" })), "customerName");
    }
}
