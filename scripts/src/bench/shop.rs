//! The shop that is measured: its products, its buyers, and what they ask for.

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context, Result};
use domain::{OpenId, ProductId, UserId};
use edge::config::{SessionSecret, StoreConfig};
use edge::{App, Clock, Config};
use serde_json::json;
use store::collections::InitOptions;
use store::{CommandKey, Store};

pub(super) const PRODUCTS: usize = 16;
const BUYERS: usize = 256;
const PRICE_FEN: i64 = 12_900;
const STOCK: i64 = 1_000_000_000;

pub(super) struct Buyer {
    pub(super) user: UserId,
    pub(super) open_id: OpenId,
    pub(super) token: String,
}

/// The function's database, the yardstick's, and who buys what in them.
pub(super) struct Shop {
    /// Signs tokens; calls the function without HTTP.
    pub(super) app: Arc<App>,
    pub(super) clock: Clock,
    pub(super) direct: Store,
    pub(super) products: Vec<ProductId>,
    pub(super) buyers: Vec<Buyer>,
    /// The function's `SESSION_SECRETS`.
    pub(super) session_secrets: String,
    orders: AtomicUsize,
}

/// One order to be made.
pub(super) struct Wish<'a> {
    pub(super) product: usize,
    pub(super) buyer: &'a Buyer,
    pub(super) request_id: String,
}

impl Shop {
    /// Does no IO.
    pub(super) fn new(uri: &str, database: &str, direct_database: &str, max_concurrent: usize) -> Result<Self> {
        let clock = Clock::system();
        // The function listens on every interface, so its tokens must not be known. The standard library's hash keys
        // are random, which will do for the minutes that they are used.
        let secret: String = (0..4u8).map(|n| format!("{:016x}", RandomState::new().hash_one(n))).collect();
        let session_secrets = json!([{ "id": "bench", "secret": &secret }]).to_string();
        let config = Config {
            store: Some(StoreConfig { uri: uri.into(), database: database.to_owned() }),
            session_secrets: vec![SessionSecret { id: "bench".to_owned(), secret: secret.into() }],
            max_concurrent,
            ..Config::default()
        };
        let app = App::new(config, clock.clone())?;
        let direct = Store::new(store::StoreConfig::new(uri, direct_database));
        let products =
            (0..PRODUCTS).map(|n| ProductId::parse(&format!("p-bench-{n:02}"))).collect::<Result<Vec<_>, _>>()?;
        let mut buyers = Vec::new();
        for n in 0..BUYERS {
            let open_id = OpenId::parse(&format!("oBench-{n:021}"))?;
            let (token, _) = app.issue_user_token(&open_id, None, clock.now()).map_err(anyhow::Error::new)?;
            buyers.push(Buyer { user: UserId::parse(&format!("u-bench-{n:04}"))?, open_id, token });
        }
        Ok(Self { app, clock, direct, products, buyers, session_secrets, orders: AtomicUsize::new(0) })
    }

    /// Opens both databases with the same products and buyers, and more stock than can be sold.
    pub(super) async fn fill(&self) -> Result<()> {
        let now = self.clock.now();
        for store in [self.app.store(), &self.direct] {
            store.init(InitOptions { demo: true, dry_run: false }, now).await?;
            for id in &self.products {
                let product = json!({
                    "_id": id.as_str(), "name": "五常大米 10kg", "description": "当季新米，真空包装。",
                    "category": "粮油", "images": ["https://img.example.com/rice.jpg"], "price": PRICE_FEN,
                    "status": "onSale", "stock": STOCK, "skus": [], "grantsCoin": false,
                });
                store.open_document("shopProducts", &product, now).await?;
            }
            for buyer in &self.buyers {
                let member = json!({
                    "_id": buyer.user.as_str(), "openId": buyer.open_id.as_str(), "nickName": "买家", "points": 0,
                    "level": 1, "balance": 0, "carryFen": 0, "isVerified": false, "blocked": false,
                });
                store.open_document("member_user", &member, now).await?;
            }
        }
        Ok(())
    }

    /// The next order: always another buyer and another key, and of the first `products` products another one each time.
    pub(super) fn wish(&self, products: usize) -> Result<Wish<'_>> {
        let n = self.orders.fetch_add(1, Ordering::Relaxed);
        let buyer = n.checked_rem(BUYERS).and_then(|at| self.buyers.get(at)).context("no buyers")?;
        Ok(Wish { product: n.checked_rem(products).unwrap_or(0), buyer, request_id: format!("bench-{n:012}") })
    }

    /// The body of a call for it, as a mini-program would send it.
    pub(super) fn body(&self, wish: &Wish<'_>) -> String {
        let product = self.products.get(wish.product).map_or("", ProductId::as_str);
        format!(
            concat!(
                r#"{{"items":[{{"productId":"{}","quantity":1,"price":129}}],"totalAmount":129,"paymentMethod":"wechat","#,
                r#""address":{{"userName":"张三","telNumber":"13800138000","provinceName":"广东省","cityName":"广州市","#,
                r#""countyName":"海珠区","detailInfo":"新港中路 397 号"}},"remark":"请放门口","requestId":"{}"}}"#,
            ),
            product, wish.request_id
        )
    }
}

impl Wish<'_> {
    /// The key under which the function remembers it.
    pub(super) fn key(&self) -> CommandKey {
        // As long as the function's own, which ends in a SHA-256.
        const HASH: &str = "0000000000000000000000000000000000000000000000000000000000000000";
        CommandKey::new("submitOrder", &format!("u:{}", self.buyer.open_id.as_str()), &self.request_id, HASH)
    }
}
