//! `subscriptions`: which messages of the mini-program a user has agreed to get, and how many.

use std::collections::BTreeMap;

use domain::{Code, Failure, Refusal};
use edge::config::Template;
use edge::{Accept, Context, Function, Need, Reply};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use shop::members::active_member;
use store::subscriptions::{Choice, Subscription};

/// What one `wx.requestSubscribeMessage` can ask for is far less.
const RESULTS_MAX: usize = 20;

pub fn function() -> Function {
    Function::new("subscriptions", handle)
        .summary("订阅消息授权")
        .accepts(&[Accept::User])
        .needs(&[Need::Store, Need::Session])
}

#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
enum Action {
    Report,
    Status,
}

/// What the user answered.
#[derive(Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
enum Answer {
    Accept,
    Reject,
    Ban,
}

impl From<Answer> for Choice {
    fn from(answer: Answer) -> Self {
        match answer {
            Answer::Accept => Self::Accept,
            Answer::Reject => Self::Reject,
            Answer::Ban => Self::Ban,
        }
    }
}

#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct Input {
    action: Action,
    /// For `report`: what `wx.requestSubscribeMessage` gave for each template id; at most 20.
    results: Option<BTreeMap<String, Answer>>,
}

#[derive(Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct TemplateView {
    template_id: String,
    /// The events that use it.
    names: Vec<String>,
    long_term: bool,
    choice: Option<Choice>,
    /// Messages that may still be sent; null for a long-term template, which needs no count.
    available: Option<i64>,
}

#[derive(Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ReportOutput {
    recorded: usize,
    /// Template ids that the shop does not use.
    ignored: Vec<String>,
    templates: Vec<TemplateView>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct StatusOutput {
    templates: Vec<TemplateView>,
}

async fn handle(ctx: Context, input: Input) -> Result<Reply, Failure> {
    let open_id = ctx.caller.acting_open_id(None)?;
    active_member(ctx.store(), &open_id, Code::Unauthenticated).await?;
    let templates = &ctx.app.config.templates;
    match input.action {
        Action::Status => {
            let templates = views(templates, &ctx.store().subscriptions(&open_id).await?);
            Reply::of(&StatusOutput { templates })
        }
        Action::Report => {
            let results = input.results.ok_or_else(|| Refusal::invalid("results", "缺少字段 results"))?;
            if results.len() > RESULTS_MAX {
                return Err(Refusal::invalid("results", format!("results 最多 {RESULTS_MAX} 项")).into());
            }
            let (known, ignored): (Vec<_>, Vec<_>) =
                results.into_iter().partition(|(id, _)| templates.iter().any(|template| template.template_id == *id));
            let ignored: Vec<String> = ignored.into_iter().map(|(id, _)| id).collect();
            let key = ctx.command_key();
            let done = ctx
                .store()
                .once(key.as_ref(), ctx.now, |tx, _| {
                    let (open_id, known, ignored, now) = (&open_id, &known, &ignored, ctx.now);
                    Box::pin(async move {
                        for (id, answer) in known {
                            tx.record_choice(open_id, id, Choice::from(*answer), now).await?;
                        }
                        let templates = views(templates, &tx.subscriptions(open_id).await?);
                        Ok(ReportOutput { recorded: known.len(), ignored: ignored.clone(), templates })
                    })
                })
                .await?;
            Ok(Reply::of(&done.value)?.with_replayed(done.replayed))
        }
    }
}

/// Each template once, in the order of the configuration.
fn views(templates: &[Template], rows: &[Subscription]) -> Vec<TemplateView> {
    let mut views: Vec<TemplateView> = Vec::new();
    for template in templates {
        if let Some(view) = views.iter_mut().find(|view| view.template_id == template.template_id) {
            view.names.push(template.name.clone());
            continue;
        }
        let row = rows.iter().find(|row| row.template_id == template.template_id);
        let available = row.map_or(0, |row| row.available);
        views.push(TemplateView {
            template_id: template.template_id.clone(),
            names: vec![template.name.clone()],
            long_term: template.long_term,
            choice: row.map(|row| row.choice),
            available: (!template.long_term).then_some(available),
        });
    }
    views
}
