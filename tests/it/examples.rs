//! The worked examples of `docs/PREPAID.md` come out as they stand there.

use it::{Client, World, order_of};
use serde_json::{Value, json};

/// Signs in and links to `c-demo` by the code that the simulated provider sent.
async fn linked(client: &Client) -> anyhow::Result<String> {
    let token = client.login("alice").await?;
    let phone = "13800138000";
    client.call("sendSMS", &token, json!({ "phone": phone, "purpose": "bind" })).await?.ok();
    let inbox: Value = reqwest::Client::builder()
        .no_proxy()
        .tls_certs_only([])
        .build()?
        .get(format!("{}/sim/control/sms?phone={phone}", client.base))
        .send()
        .await?
        .text()
        .await?
        .parse()?;
    let input = json!({ "phone": phone, "verifyCode": inbox["messages"][0]["code"] });
    let answer = client.call("linkUserToCustomer", &token, input).await?;
    let answer = answer.ok();
    assert_eq!((&answer["customerId"], &answer["linkedRecords"]), (&json!("c-demo"), &json!(2)), "{answer}");
    Ok(token)
}

/// What a record of the linked user holds.
async fn balance(client: &Client, token: &str, record: &str) -> anyhow::Result<Value> {
    let answer = client.call("prepaid", token, json!({ "action": "records" })).await?;
    let records = answer.ok()["data"].as_array().cloned().unwrap_or_default();
    Ok(records.into_iter().find(|r| r["recordId"] == record).map_or(Value::Null, |r| r["balance"].clone()))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_worked_examples_of_prepaid_come_out() -> anyhow::Result<()> {
    let world = World::start().await?;
    let c = &world.client;
    let token = linked(c).await?;
    let order = |method: &str, quantity: i64| {
        let mut event = order_of("p-apple", quantity);
        event["paymentMethod"] = json!(method);
        event
    };
    let amounts = |a: &Value| [a["totalAmount"].clone(), a["prepaidAmount"].clone(), a["paymentAmount"].clone()];

    let made = c.call("submitOrder", &token, order("prestore", 3)).await?;
    assert_eq!(amounts(made.ok()), [json!(150), json!(100), json!(50)], "{made:?}");
    assert_eq!(balance(c, &token, "pr-demo-amount").await?, json!(0));
    c.call("orders", &token, json!({ "action": "cancel", "orderId": made.text("orderId") })).await?.ok();
    assert_eq!(balance(c, &token, "pr-demo-amount").await?, json!(100));
    let mut too_much = order("prestore", 3);
    too_much["prepaidAmount"] = json!(120);
    c.call("submitOrder", &token, too_much).await?.refused(422, "PREPAID_INSUFFICIENT");

    let made = c.call("submitOrder", &token, order("prepaid", 7)).await?;
    let answer = made.ok();
    assert_eq!((&answer["totalAmount"], &answer["paymentAmount"]), (&json!(350), &json!(100)), "{answer}");
    assert_eq!(balance(c, &token, "pr-demo-apple").await?, json!(0));
    c.call("orders", &token, json!({ "action": "cancel", "orderId": made.text("orderId") })).await?.ok();
    assert_eq!(balance(c, &token, "pr-demo-apple").await?, json!(5));

    let take = json!({ "customerId": "c-demo", "orderId": "crm-1001", "prepaidType": "amount", "amount": 30 });
    let first = c.call_service("updatePrepaidBalance", take.clone()).await?;
    let answer = first.ok();
    assert_eq!((&answer["deductedAmount"], &answer["remainingBalance"]), (&json!(30), &json!(70)), "{answer}");
    let detail = json!([{ "recordId": "pr-demo-amount", "before": 100, "deducted": 30, "after": 70 }]);
    assert_eq!(answer["details"], detail);
    let again = c.call_service("updatePrepaidBalance", take.clone()).await?;
    assert_eq!((&again.ok()["replayed"], &again.body["details"]), (&json!(true), &detail));
    let (mut other, mut back) = (take.clone(), take);
    other["amount"] = json!(31);
    c.call_service("updatePrepaidBalance", other).await?.refused(409, "CONFLICT");
    back["restore"] = json!(true);
    c.call_service("updatePrepaidBalance", back).await?.ok();
    assert_eq!(balance(c, &token, "pr-demo-amount").await?, json!(100));
    let at_once = c.call("submitOrder", &token, order("prepaid", 5)).await?;
    assert_eq!(at_once.ok()["status"], "paid");
    world.settle_down().await?;
    world.finish().await
}
