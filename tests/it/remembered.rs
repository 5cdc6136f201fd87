//! What the shop remembers of a command, so that a repeat has the same effect: no name, no phone and no words of people, which
//! would stay there after they were taken back.

use it::{World, order_of};
use serde_json::{Value, json};

/// Calls twice under one `requestId`; returns both replies without what tells them apart.
async fn twice(world: &World, token: Option<&str>, name: &str, mut event: Value) -> anyhow::Result<(Value, Value)> {
    event["requestId"] = json!(it::wechat_nonce());
    let call = async |replayed: bool| -> anyhow::Result<Value> {
        let answer = match token {
            Some(token) => world.client.call(name, token, event.clone()).await?,
            None => world.client.call_service(name, event.clone()).await?,
        };
        let mut reply = answer.ok().clone();
        assert_eq!(reply["replayed"] == true, replayed, "{name} {event}: {reply}");
        reply.as_object_mut().unwrap().retain(|field, _| field != "replayed" && field != "requestId");
        Ok(reply)
    };
    Ok((call(false).await?, call(true).await?))
}

#[tokio::test]
async fn what_people_wrote_is_not_kept_beside_it() -> anyhow::Result<()> {
    let world = World::start().await?;
    let c = &world.client;
    let token = c.login("alice").await?;
    let place =
        |detail: &str| json!({ "name": "秘密甲", "phone": "13900001111", "province": "浙江省", "detail": detail });
    let same = async |token: Option<&str>, name: &str, event: Value| {
        let (first, again) = twice(&world, token, name, event).await?;
        assert_eq!(first, again);
        anyhow::Ok(first)
    };

    let create = json!({ "action": "create", "address": place("秘密路 1 号") });
    let id = same(Some(&token), "addresses", create.clone()).await?["_id"].clone();
    let other = same(Some(&token), "addresses", json!({ "action": "create", "address": place("秘密路 2 号") })).await?;
    assert_eq!(other["isDefault"], false);
    let chosen = json!({ "action": "setDefault", "addressId": other["_id"] });
    assert_eq!(same(Some(&token), "addresses", chosen).await?["isDefault"], true);
    let update = json!({ "action": "update", "addressId": id, "address": place("秘密路 3 号"), "isDefault": true });
    let changed = same(Some(&token), "addresses", update).await?;
    assert_eq!((&changed["detail"], &changed["isDefault"]), (&json!("秘密路 3 号"), &json!(true)));
    // What was deleted since cannot be shown again.
    let mut lost = create;
    lost["requestId"] = json!("address-0001");
    let gone = c.call("addresses", &token, lost.clone()).await?.ok()["_id"].clone();
    c.call("addresses", &token, json!({ "action": "delete", "addressId": gone })).await?.ok();
    c.call("addresses", &token, lost).await?.refused(404, "NOT_FOUND");

    let order = c.call("submitOrder", &token, order_of("p-apple", 1)).await?.text("orderId");
    c.call("wxPay", &token, json!({ "orderId": order })).await?.ok();
    c.pay(&order, "once").await?;
    c.call_service("orders", json!({ "action": "ship", "orderId": order, "logistics": "pickup" })).await?.ok();
    c.call("orders", &token, json!({ "action": "confirmReceipt", "orderId": order })).await?.ok();
    let add = json!({ "action": "add", "orderId": order, "lineId": "1", "rating": 4, "text": "秘密的话", "nickname": "秘密乙" });
    let review = same(Some(&token), "reviews", add).await?["review"].clone();
    assert_eq!(review["text"], "秘密的话");
    let id = &review["reviewId"];
    let reply = json!({ "action": "reply", "reviewId": id, "text": "秘密的回复" });
    assert_eq!(same(None, "reviews", reply).await?["review"]["reply"]["text"], "秘密的回复");
    let hide = json!({ "action": "moderate", "reviewId": id, "decision": "hide", "reason": "秘密的原因" });
    assert_eq!(same(None, "reviews", hide).await?["review"]["reason"], "秘密的原因");
    let remove = json!({ "action": "remove", "reviewId": id });
    assert_eq!(same(Some(&token), "reviews", remove).await?["review"]["status"], "removed");

    let person = json!({ "action": "upsert", "userId": "s-new", "name": "秘密丙", "phone": "13900002222" });
    assert_eq!(same(None, "staff", person).await?["phone"], "13900002222");
    let customer = json!({ "action": "upsert", "name": "秘密丁", "phone": "13900003333", "remark": "秘密的备注" });
    assert_eq!(same(None, "customers", customer).await?["phone"], "13900003333");

    let requests = world.store.peek("requests", 1_000).await?;
    assert!(requests.len() >= 10, "{}", requests.len());
    for request in requests {
        let text = request.to_string();
        assert!(!text.contains("秘密") && !text.contains("13900"), "{text}");
    }
    world.finish().await
}
