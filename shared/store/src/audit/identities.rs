//! Who is verified, and that nothing about them can be read.

use bson::{Bson, Document, doc};
use domain::id_card::holds_a_number;
use domain::vault::is_sealed;
use futures_util::TryStreamExt;
use mongodb::options::Hint;

use super::{Audit, Batch};
use crate::Error;
use crate::identities::Identity;
use crate::members::Member;

impl Audit<'_> {
    pub(super) async fn identities(&mut self) -> Result<(), Error> {
        let mut after: Option<Bson> = None;
        loop {
            let batch: Batch<Document> = self.batch("identities", "identity", after).await?;
            let ids = batch.rows.iter().filter_map(|d| d.get_str("_id").ok()).map(str::to_owned).collect();
            let members: Vec<Member> = self.matching("member_user", "_id", ids).await?;
            for document in batch.rows {
                let id = format!("identities/{}", document.get_str("_id").unwrap_or("?"));
                if document.values().any(has_a_number) {
                    self.violation("identity", "an identity number can be read", id.clone());
                }
                let identity: Identity = match bson::deserialize_from_document(document) {
                    Ok(identity) => identity,
                    Err(error) => {
                        self.violation("identity", format!("the document cannot be read: {error}"), id);
                        continue;
                    }
                };
                let verified = members.iter().find(|m| m.id == identity.user_id).map(|m| m.is_verified);
                for message in faults(&identity, verified) {
                    self.violation("identity", message, id.clone());
                }
            }
            match batch.next {
                Some(next) => after = Some(next),
                None => break,
            }
        }
        for collection in ["member_user", "customers", "accessLogs"] {
            self.numbers_in_clear(collection).await?;
        }
        self.verified_members().await?;
        self.mall_buyers().await?;
        self.shared_numbers().await
    }

    /// Where a number is most likely to be left or typed in.
    async fn numbers_in_clear(&mut self, collection: &str) -> Result<(), Error> {
        let source = self.collection(collection).await?;
        let find = source.find(doc! {}).hint(Hint::Keys(doc! { "_id": 1 })).batch_size(500);
        let mut cursor = find.session(&mut self.session).await?;
        let mut found = Vec::new();
        while let Some(document) = cursor.stream(&mut self.session).try_next().await? {
            if document.values().any(has_a_number) {
                found.push(document.get_str("_id").unwrap_or("?").to_owned());
            }
        }
        for id in found {
            self.violation("identity", "an identity number can be read", format!("{collection}/{id}"));
        }
        Ok(())
    }

    /// Who waits for goods of the points mall is verified: until they arrive a real name cannot be erased.
    async fn mall_buyers(&mut self) -> Result<(), Error> {
        let pipeline = vec![
            doc! { "$match": {
                "type": domain::OrderType::PointsMall.as_str(), "status": { "$in": ["paid", "shipped"] },
            } },
            doc! { "$lookup": { "from": "member_user", "localField": "userId", "foreignField": "_id", "as": "member" } },
            doc! { "$match": { "member.isVerified": { "$ne": true } } },
        ];
        for id in self.ids_of("orders", pipeline).await? {
            self.violation("identity", "goods of the points mall for somebody unverified", format!("orders/{id}"));
        }
        Ok(())
    }

    /// The other way round: nobody is verified without a name.
    async fn verified_members(&mut self) -> Result<(), Error> {
        let verified = self.ids_of("member_user", vec![doc! { "$match": { "isVerified": true } }]).await?;
        for ids in verified.chunks(super::BATCH) {
            let identities: Vec<Identity> = self.matching("identities", "_id", ids.to_vec()).await?;
            for id in ids {
                if !identities.iter().any(|i| i.user_id.as_str() == id && i.is_live()) {
                    self.violation("identity", "verified without a stored identity", format!("member_user/{id}"));
                }
            }
        }
        Ok(())
    }

    async fn shared_numbers(&mut self) -> Result<(), Error> {
        let pipeline = vec![
            doc! { "$unwind": "$idIndex" },
            doc! { "$group": { "_id": "$idIndex.mac", "users": { "$addToSet": "$_id" } } },
            doc! { "$match": { "users.1": { "$exists": true } } },
            doc! { "$unwind": "$users" },
            doc! { "$group": { "_id": "$users" } },
        ];
        for id in self.ids_of("identities", pipeline).await? {
            self.violation("identity", "the number is another user's, too", format!("identities/{id}"));
        }
        Ok(())
    }
}

/// What is wrong with one identity; `verified` is what its member says, none if there is no such member.
fn faults(identity: &Identity, verified: Option<bool>) -> Vec<&'static str> {
    let mut faults = Vec::new();
    let sealed = [&identity.real_name, &identity.id_card];
    let shown = [&identity.masked_name, &identity.masked_id_card];
    if verified.is_none() {
        faults.push("there is no such member");
    }
    if identity.is_live() {
        if verified == Some(false) {
            faults.push("the member does not know");
        }
        if !sealed.iter().all(|field| field.as_deref().is_some_and(is_sealed)) {
            faults.push("name or number is not sealed");
        }
        let hashes = |mac: &str| mac.len() == 64 && mac.bytes().all(|b| b.is_ascii_hexdigit());
        if identity.id_index.is_empty() || !identity.id_index.iter().all(|i| hashes(&i.mac)) {
            faults.push("the number cannot be found by its index");
        }
        if identity.verified_at.is_none() || identity.consent.withdrawn_at.is_some() {
            faults.push("verified without a time or against a withdrawn consent");
        }
        if !identity.masked_id_card.as_deref().is_some_and(|text| text.contains("**********")) {
            faults.push("the number is not masked");
        }
    } else {
        if verified == Some(true) {
            faults.push("erased, and the member is still verified");
        }
        let left = sealed.iter().chain(&shown).any(|field| field.is_some()) || !identity.id_index.is_empty();
        if left || identity.provider.is_some() {
            faults.push("erased, and something is left");
        }
    }
    faults
}

/// Whether a value holds an identity number.
fn has_a_number(value: &Bson) -> bool {
    match value {
        Bson::String(text) => holds_a_number(text),
        Bson::Array(values) => values.iter().any(has_a_number),
        Bson::Document(document) => document.values().any(has_a_number),
        Bson::Int64(number) => holds_a_number(&number.to_string()),
        _ => false,
    }
}
