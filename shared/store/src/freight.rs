//! `freightTemplates`: what sending costs. A product names its template (`shopProducts.freightTemplateId`).

use bson::{Document, doc};
use chrono::{DateTime, Utc};
use domain::freight::{Measure, Rule, Tariff, Template};
use domain::{ProductId, TemplateId};
use futures_util::TryStreamExt;
use serde::{Deserialize, Serialize};

use crate::page::{Page, PageRequest, Row};
use crate::{Error, Store, Tx, date};

const TEMPLATES: &str = "freightTemplates";

/// A template as it is stored. Amounts in fen.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FreightTemplate {
    #[serde(rename = "_id")]
    pub id: TemplateId,
    pub name: String,
    /// Counts the edits.
    #[serde(deserialize_with = "domain::money::whole")]
    pub version: i64,
    pub measure: Measure,
    pub rules: Vec<Rule>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default: Option<Tariff>,
    #[serde(with = "date")]
    pub created_at: DateTime<Utc>,
    #[serde(with = "date")]
    pub updated_at: DateTime<Utc>,
}

impl FreightTemplate {
    /// As the calculator takes it.
    pub fn template(&self) -> Template {
        Template {
            id: self.id.clone(),
            version: self.version,
            measure: self.measure,
            rules: self.rules.clone(),
            default: self.default,
        }
    }
}

impl Row for FreightTemplate {
    fn position(&self) -> (DateTime<Utc>, &str) {
        (self.created_at, self.id.as_str())
    }
}

impl Store {
    pub async fn freight_template(&self, id: &TemplateId) -> Result<Option<FreightTemplate>, Error> {
        Ok(self.collection::<FreightTemplate>(TEMPLATES).await?.find_one(doc! { "_id": id.as_str() }).await?)
    }

    /// The templates with these ids, in no order.
    pub async fn freight_templates_by_id(&self, ids: &[TemplateId]) -> Result<Vec<FreightTemplate>, Error> {
        let ids: Vec<&str> = ids.iter().map(TemplateId::as_str).collect();
        let found = self.collection::<FreightTemplate>(TEMPLATES).await?.find(doc! { "_id": { "$in": ids } }).await?;
        Ok(found.try_collect().await?)
    }

    /// All templates, newest first.
    pub async fn freight_templates(&self, page: &PageRequest) -> Result<Page<FreightTemplate>, Error> {
        self.page(TEMPLATES, doc! {}, page).await
    }
}

impl Tx {
    pub async fn freight_template(&mut self, id: &TemplateId) -> Result<Option<FreightTemplate>, Error> {
        self.find_by_id(TEMPLATES, id.as_str()).await
    }

    pub async fn insert_freight_template(&mut self, template: &FreightTemplate) -> Result<(), Error> {
        self.insert(TEMPLATES, template).await
    }

    /// Replaces what a template says, if it is still of the version before; false if it is not.
    pub async fn change_freight_template(&mut self, template: &FreightTemplate) -> Result<bool, Error> {
        let mut set = bson::serialize_to_document(template)?;
        for kept in ["_id", "createdAt"] {
            set.remove(kept);
        }
        let mut change = doc! { "$set": set };
        if template.default.is_none() {
            change.insert("$unset", doc! { "default": "" });
        }
        let before = doc! { "_id": template.id.as_str(), "version": template.version.saturating_sub(1) };
        self.update(TEMPLATES, before, change).await
    }

    /// Removes a template; false if there is none.
    pub async fn delete_freight_template(&mut self, id: &TemplateId) -> Result<bool, Error> {
        let templates = self.collection::<Document>(TEMPLATES);
        let done = templates.delete_one(doc! { "_id": id.as_str() }).session(&mut self.session).await?;
        Ok(done.deleted_count == 1)
    }

    /// Marks a template as written, so that one is not deleted while a product is given to it. False if there is none.
    pub async fn hold_freight_template(&mut self, id: &TemplateId) -> Result<bool, Error> {
        self.update(TEMPLATES, doc! { "_id": id.as_str() }, doc! { "$inc": { "revision": 1i64 } }).await
    }

    /// One product that is sent by this template, if there is any.
    pub async fn product_of_template(&mut self, id: &TemplateId) -> Result<Option<String>, Error> {
        let products = self.collection::<Document>("shopProducts");
        let of = products.find_one(doc! { "freightTemplateId": id.as_str() }).session(&mut self.session).await?;
        Ok(of.and_then(|product| product.get_str("_id").map(str::to_owned).ok()))
    }

    /// Says how a product is sent: by which template (none: for nothing), and what a piece weighs in grams, if that is told.
    /// False if there is no such product.
    pub async fn send_product_by(
        &mut self,
        product: &ProductId,
        template: Option<&TemplateId>,
        weight_g: Option<i64>,
    ) -> Result<bool, Error> {
        let mut set = doc! {};
        let mut change = doc! {};
        match template {
            Some(id) => {
                set.insert("freightTemplateId", id.as_str());
            }
            None => {
                change.insert("$unset", doc! { "freightTemplateId": "" });
            }
        }
        if let Some(grams) = weight_g {
            set.insert("weightG", grams);
        }
        if !set.is_empty() {
            change.insert("$set", set);
        }
        self.update("shopProducts", doc! { "_id": product.as_str() }, change).await
    }
}
