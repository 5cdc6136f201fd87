//! `jinlu bench lists`

use std::fmt::Write;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use axum::body::Bytes;
use axum::http::HeaderMap;
use chrono::{DateTime, TimeDelta, Utc};
use domain::{Fen, OpenId, OrderId, OrderStatus, OrderType, ProductId, UserId};
use edge::{App, Caller, Clock, Function, Invocation, Proof};
use serde::Serialize;
use serde_json::{Value, json};
use store::baseline::{self, Buyer, Goods, Past};
use store::collections::InitOptions;
use store::products::SaleMode;

use super::server::Server;
use super::stats::nearest_rank;
use crate::cli::say;
use crate::local;
use crate::serve::Shutdown;

/// How much longer the large shop may take.
const RATIO_MAX: f64 = 3.0;
/// Orders of each buyer, in either shop.
const PER_BUYER: u64 = 10;
/// The large shop with its indexes has to fit, as it would on a server of such a shop.
const CACHE_MIB: u32 = 3_072;
/// Documents seeded at once.
const BATCH: u64 = 5_000;
/// Orders and products that are asked for, remembered by the way.
const REMEMBERED: u64 = 2_000;

/// 性能测试：列表、详情与搜索 · Measure how lists, single documents and searches grow with the shop
///
/// 在同一数据库服务器上准备一大一小两个商城，轮流在进程内调用真正的 orders 与 products，比较 p50 与 p99。
/// Fills two databases of one server, a small shop and a large one, and calls the real orders and products inside of this
/// process, in turns: every question is put to both. It writes orders and products in bulk, without the entries of the
/// ledger, so neither database is one to audit; both are dropped in the end. Exits 1 if an answer is no success.
///
/// Examples:
///   cargo build --release -p jinlu && target/release/jinlu bench lists
///   jinlu bench lists --orders 100000 --products 20000 --samples 200
///   jinlu bench lists --data-dir /data/bench --json
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Args {
    /// 大商城的订单数 · Orders of the large shop
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u64).range(100..=5_000_000))]
    orders: u64,
    /// 大商城的商品数 · Products of the large shop
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u64).range(100..=1_000_000))]
    products: u64,
    /// 小商城的订单数与商品数 · Orders, and products, of the small shop
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(50..=1_000_000))]
    small: u64,
    /// 每个问题的次数 · How often each question is put to each shop
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u64).range(1..=100_000))]
    samples: u64,
    #[command(flatten)]
    common: super::Common,
}

/// Everything that was measured.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Report {
    small: Size,
    large: Size,
    samples: u64,
    rows: Vec<Row>,
}

#[derive(Debug, Clone, Copy, Serialize)]
#[serde(rename_all = "camelCase")]
struct Size {
    orders: u64,
    products: u64,
}

/// One question and how long the two shops took to answer it, in milliseconds.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Row {
    question: &'static str,
    small_p50: f64,
    small_p99: f64,
    large_p50: f64,
    large_p99: f64,
    ratio_p50: f64,
    ratio_p99: f64,
}

pub(super) async fn run(args: Args) -> Result<ExitCode> {
    let shutdown = Shutdown::listen()?;
    let server = tokio::select! {
        server = args.common.server_with(CACHE_MIB) => server?,
        () = shutdown.wait() => return Ok(ExitCode::FAILURE),
    };
    let report = measure(&args, &server, &shutdown).await;
    server.stop().await?;
    let Some(report) = report? else { return Ok(ExitCode::FAILURE) };
    say(if args.common.json { serde_json::to_string_pretty(&report)? } else { report.text()? })?;
    Ok(ExitCode::SUCCESS)
}

/// The same with two shops that are small; returns the questions that were not measured.
pub(super) async fn small(uri: &str) -> Result<Vec<String>> {
    let common = super::Common { uri: Some(uri.to_owned()), data_dir: None, json: false };
    let args = Args { orders: 400, products: 300, small: 100, samples: 2, common };
    let server = args.common.server().await?;
    let report = measure(&args, &server, &Shutdown::listen()?).await?.context("it was interrupted")?;
    let bad = |row: &&Row| !(row.small_p50 > 0.0 && row.large_p99 >= row.large_p50);
    Ok(report.rows.iter().filter(bad).map(|row| row.question.to_owned()).collect())
}

/// `None` when it was interrupted. The two databases are dropped in any case.
async fn measure(args: &Args, server: &Server, shutdown: &Shutdown) -> Result<Option<Report>> {
    let name = |side: &str| format!("jinlu_bench_{}_{side}", std::process::id());
    let app = |side: &str| {
        // Nobody can call this process, so the local cloud's credentials will do.
        App::new(local::config("http://127.0.0.1:9", 9, &server.uri, &name(side)), Clock::system())
    };
    let (small, large) = (app("small")?, app("large")?);
    let measured = tokio::select! {
        measured = figures(args, &small, &large) => measured.map(Some),
        () = shutdown.wait() => Ok(None),
    };
    let dropped = (small.store().drop_database().await, large.store().drop_database().await);
    let report = measured?;
    dropped.0?;
    dropped.1?;
    Ok(report)
}

async fn figures(args: &Args, small: &Arc<App>, large: &Arc<App>) -> Result<Report> {
    let sizes = [
        Size { orders: args.small.min(args.orders), products: args.small.min(args.products) },
        Size { orders: args.orders, products: args.products },
    ];
    let mut shops = Vec::new();
    for (app, size) in [small, large].into_iter().zip(sizes) {
        eprintln!("  准备 · {} orders, {} products", size.orders, size.products);
        shops.push(Shop::fill(app, size).await?);
    }
    let mut rows = Vec::new();
    for (question, ask) in QUESTIONS {
        let mut times = [Vec::new(), Vec::new()];
        // The first tenth is not counted: it fills caches and lets the server choose its plans.
        let warm_up = args.samples.div_ceil(10);
        for n in 0..args.samples.saturating_add(warm_up) {
            for (shop, times) in shops.iter().zip(&mut times) {
                let call = ask(shop, n)?;
                let begun = Instant::now();
                shop.call(question, call).await?;
                if n >= warm_up {
                    times.push(begun.elapsed().as_secs_f64() * 1_000.0);
                }
            }
        }
        let [small, large] = &mut times;
        let row = Row::of(question, small, large)?;
        eprintln!("    {}", row.line());
        rows.push(row);
    }
    let [small, large] = sizes;
    Ok(Report { small, large, samples: args.samples, rows })
}

impl Row {
    fn of(question: &'static str, small: &mut [f64], large: &mut [f64]) -> Result<Self> {
        small.sort_by(f64::total_cmp);
        large.sort_by(f64::total_cmp);
        let rank = |times: &[f64], percent| nearest_rank(times, percent).copied().context("nothing was measured");
        let (small_p50, small_p99) = (rank(small, 50)?, rank(small, 99)?);
        let (large_p50, large_p99) = (rank(large, 50)?, rank(large, 99)?);
        let (ratio_p50, ratio_p99) = (large_p50 / small_p50, large_p99 / small_p99);
        Ok(Self { question, small_p50, small_p99, large_p50, large_p99, ratio_p50, ratio_p99 })
    }

    fn line(&self) -> String {
        let Self { question, small_p50, small_p99, large_p50, large_p99, ratio_p50, ratio_p99 } = self;
        let met = if *ratio_p99 <= RATIO_MAX { "" } else { "   MISSED" };
        format!(
            "{question:<44}{small_p50:>8.2}{small_p99:>8.2}{large_p50:>9.2}{large_p99:>8.2}{ratio_p50:>8.2}{ratio_p99:>7.2}{met}"
        )
    }
}

impl Report {
    fn text(&self) -> Result<String> {
        let mut out = String::new();
        let Self { small, large, samples, rows } = self;
        writeln!(
            out,
            "small: {} orders, {} products; large: {} orders, {} products; {samples} calls of each, in turns; target: p99 within {RATIO_MAX}×",
            small.orders, small.products, large.orders, large.products
        )?;
        writeln!(out, "{:<44}   small ms        large ms        ratio", "")?;
        writeln!(out, "{:<44}{:>8}{:>8}{:>9}{:>8}{:>8}{:>7}", "", "p50", "p99", "p50", "p99", "p50", "p99")?;
        for row in rows {
            writeln!(out, "{}", row.line())?;
        }
        Ok(out.trim_end().to_owned())
    }
}

/// What is asked, by whom.
struct Call {
    function: &'static str,
    caller: Caller,
    input: Value,
}

type Ask = fn(&Shop, u64) -> Result<Call>;

/// Every question, as it is put for the `n`th time.
const QUESTIONS: &[(&str, Ask)] = &[
    ("orders list, user", |shop, n| shop.by_user(n, json!({ "action": "list" }))),
    ("orders list, user, by status", |shop, n| shop.by_user(n, json!({ "action": "list", "status": "completed" }))),
    ("orders list, user, by type", |shop, n| shop.by_user(n, json!({ "action": "list", "type": "lottery" }))),
    ("orders list, a user with 1,000 of them", |shop, _| {
        let input = json!({ "action": "list", "limit": 20 });
        Ok(Call { function: "orders", caller: shop.buyer(0)?.caller(), input })
    }),
    ("orders get, user", |shop, n| {
        let (buyer, id, _) = shop.order(n)?;
        let input = json!({ "action": "get", "orderId": id });
        Ok(Call { function: "orders", caller: shop.buyer(*buyer)?.caller(), input })
    }),
    ("orders list, staff", |_, _| by_staff(json!({ "action": "list" }))),
    ("orders list, staff, 100 of them", |_, _| by_staff(json!({ "action": "list", "limit": 100 }))),
    ("orders list, staff, from the middle", |shop, n| {
        by_staff(json!({ "action": "list", "after": shop.order_cursor(n)? }))
    }),
    ("orders list, staff, by status", |_, _| by_staff(json!({ "action": "list", "status": "paid" }))),
    ("orders list, staff, by status, from the middle", |shop, n| {
        by_staff(json!({ "action": "list", "status": "completed", "after": shop.order_cursor(n)? }))
    }),
    ("orders list, staff, by type", |_, _| by_staff(json!({ "action": "list", "type": "lottery" }))),
    ("orders list, staff, by type and status", |_, _| {
        by_staff(json!({ "action": "list", "type": "lottery", "status": "paid" }))
    }),
    ("orders get, staff", |shop, n| by_staff(json!({ "action": "get", "orderId": shop.order(n)?.1 }))),
    ("products list", |_, _| goods(json!({ "action": "list" }))),
    ("products list, from the middle", |shop, n| goods(json!({ "action": "list", "after": shop.product_cursor(n)? }))),
    ("products list, category", |_, n| goods(json!({ "action": "list", "category": category(n) }))),
    ("products list, mall", |_, _| goods(json!({ "action": "list", "saleMode": "mall" }))),
    ("products list, shop, in stock", |_, _| goods(json!({ "action": "list", "saleMode": "shop", "inStock": true }))),
    ("products list, price range", |_, n| {
        let from = 20u64.saturating_add(n.wrapping_mul(7) % 400);
        goods(json!({ "action": "list", "priceMin": from, "priceMax": from.saturating_add(5) }))
    }),
    ("products list, category, in stock, price range", |_, n| {
        let from = 20u64.saturating_add(n.wrapping_mul(7) % 400);
        let to = from.saturating_add(50);
        goods(json!({ "action": "list", "category": category(n), "inStock": true, "priceMin": from, "priceMax": to }))
    }),
    ("products list, cheapest", |_, _| goods(json!({ "action": "list", "sort": "priceAsc" }))),
    ("products list, dearest of a category", |_, n| {
        goods(json!({ "action": "list", "sort": "priceDesc", "category": category(n) }))
    }),
    ("products list, cheapest of the mall", |_, _| {
        goods(json!({ "action": "list", "sort": "priceAsc", "saleMode": "mall" }))
    }),
    ("products get", |shop, n| goods(json!({ "action": "get", "productId": shop.product(n)?.0 }))),
    ("products categories", |_, _| goods(json!({ "action": "categories" }))),
    ("products search, a common word", |_, n| search(pick(NOUNS, n).0.to_owned())),
    ("products search, a common word, category", |_, n| {
        goods(json!({ "action": "search", "query": pick(NOUNS, n).0, "category": category(n.wrapping_mul(5)) }))
    }),
    ("products search, two common words", |_, n| {
        search(format!("{} {}", pick(PLACES, n.wrapping_mul(11)), pick(NOUNS, n).0))
    }),
    ("products search, common words that never meet", |_, n| {
        search(format!("{} {}", pick(NOUNS, n).0, pick(NOUNS, n.wrapping_add(1)).0))
    }),
    ("products search, a rare word", |_, n| search(series(n))),
    ("products search, a whole name", |shop, n| search(shop.product(n)?.1.clone())),
    ("products search, pinyin", |_, n| search(pick(NOUNS, n).1.to_owned())),
    ("products search, initials", |_, n| search(pick(NOUNS, n).2.to_owned())),
    ("products search, nothing there", |_, _| search("电动牙刷".to_owned())),
];

fn goods(input: Value) -> Result<Call> {
    Ok(Call { function: "products", caller: Caller::Anonymous, input })
}

fn search(query: String) -> Result<Call> {
    goods(json!({ "action": "search", "query": query }))
}

fn by_staff(input: Value) -> Result<Call> {
    let caller = Caller::Staff { id: "bench".to_owned(), permissions: vec!["orders".to_owned()] };
    Ok(Call { function: "orders", caller, input })
}

const PLACES: &[&str] = &[
    "洛川",
    "五常",
    "龙井",
    "秦岭",
    "烟台",
    "赣南",
    "哈密",
    "库尔勒",
    "砀山",
    "阳澄",
    "金华",
    "宣威",
    "郫县",
    "绍兴",
    "镇江",
    "安溪",
    "武夷",
    "普洱",
    "西湖",
    "章丘",
    "和田",
    "宁夏",
    "长白",
    "舟山",
];
/// With pinyin and initials.
const NOUNS: &[(&str, &str, &str)] = &[
    ("苹果", "pingguo", "pg"),
    ("大米", "dami", "dm"),
    ("绿茶", "lvcha", "lc"),
    ("蜂蜜", "fengmi", "fm"),
    ("香梨", "xiangli", "xl"),
    ("脐橙", "qicheng", "qc"),
    ("红枣", "hongzao", "hz"),
    ("核桃", "hetao", "ht"),
    ("木耳", "muer", "me"),
    ("香菇", "xianggu", "xg"),
    ("火腿", "huotui", "ht"),
    ("豆瓣", "douban", "db"),
    ("黄酒", "huangjiu", "hj"),
    ("香醋", "xiangcu", "xc"),
    ("枸杞", "gouqi", "gq"),
    ("人参", "renshen", "rs"),
    ("虾皮", "xiapi", "xp"),
    ("带鱼", "daiyu", "dy"),
    ("土豆", "tudou", "td"),
    ("山药", "shanyao", "sy"),
    ("小米", "xiaomi", "xm"),
    ("面条", "miantiao", "mt"),
    ("腊肉", "larou", "lr"),
    ("鸡蛋", "jidan", "jd"),
    ("牛肉", "niurou", "nr"),
];
const KINDS: &[&str] = &["礼盒", "家庭装", "尝鲜装", "罐装", "散装", "特级", "一级", "有机", "精选", "珍藏"];
/// Two of them make the name of a series: some fifty products of 100,000 share one.
const SERIES: &str = "甲乙丙丁戊己庚辛壬癸子丑寅卯辰巳午未申酉戌亥乾坤震巽坎离艮兑春夏秋冬东西南北中福禄寿喜";

fn pick<T>(of: &'static [T], n: u64) -> &'static T
where
    T: Sync,
{
    let at = usize::try_from(n).unwrap_or(0).checked_rem(of.len()).unwrap_or(0);
    // The lists above are not empty.
    of.get(at).or_else(|| of.first()).unwrap_or_else(|| unreachable!("an empty list of words"))
}

/// Spreads what would be in step.
fn scattered(n: u64) -> u64 {
    let mut bits = n.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    bits ^ (bits >> 31)
}

fn series(n: u64) -> String {
    let letters: Vec<char> = SERIES.chars().collect();
    let letter = |n: u64| letters.get(usize::try_from(n).unwrap_or(0) % letters.len().max(1)).copied().unwrap_or('甲');
    let n = scattered(n.wrapping_add(77));
    [letter(n >> 8), letter(n >> 24), '牌'].iter().collect()
}

fn category(n: u64) -> String {
    format!("分类{:02}", n % 24)
}

/// A member who buys.
struct Person {
    user: UserId,
    open_id: OpenId,
}

impl Person {
    fn caller(&self) -> Caller {
        Caller::User { open_id: self.open_id.clone(), union_id: None }
    }
}

/// One of the two shops, and some of what is in it.
struct Shop {
    app: Arc<App>,
    functions: Vec<Function>,
    people: Vec<Person>,
    /// Whose, its number, when.
    orders: Vec<(u64, OrderId, DateTime<Utc>)>,
    /// Its id, its name, when.
    products: Vec<(ProductId, String, DateTime<Utc>)>,
}

impl Shop {
    async fn fill(app: &Arc<App>, size: Size) -> Result<Self> {
        let (store, now) = (app.store(), app.clock.now());
        store.init(InitOptions { demo: true, dry_run: false }, now).await?;
        let functions = gateway::functions();
        let (app, people, orders, products) = (Arc::clone(app), Vec::new(), Vec::new(), Vec::new());
        let mut shop = Self { app, functions, people, orders, products };
        for n in 0..=(size.orders / PER_BUYER) {
            let open_id = OpenId::parse(&format!("oBench-{n:021}"))?;
            shop.people.push(Person { user: UserId::parse(&format!("u-bench-{n:07}"))?, open_id });
        }
        let members: Vec<_> = shop.people.iter().map(|p| (p.user.clone(), p.open_id.clone())).collect();
        baseline::insert_members(shop.app.store(), &members, now).await?;
        shop.fill_products(size.products, now).await?;
        shop.fill_orders(size.orders, now).await?;
        Ok(shop)
    }

    async fn fill_products(&mut self, products: u64, now: DateTime<Utc>) -> Result<()> {
        let every = (products / REMEMBERED).max(1);
        let mut batch = Vec::new();
        for n in 0..products {
            let luck = scattered(n);
            let (place, noun, kind) = (pick(PLACES, luck >> 4), pick(NOUNS, luck >> 16).0, pick(KINDS, luck >> 28));
            let created_at = now - TimeDelta::seconds(i64::try_from(products.saturating_sub(n))?);
            let one = Goods {
                id: ProductId::parse(&format!("p-bench-{n:07}"))?,
                name: format!("{}{place}{noun}{kind}", series(luck)),
                category: category(luck >> 40),
                keyword: "生鲜".to_owned(),
                price: Fen::new(990i64.saturating_add(i64::try_from(luck % 60_000)?))?,
                stock: if luck.is_multiple_of(5) { 0 } else { 100 },
                sale_mode: if luck % 50 == 1 { SaleMode::Mall } else { SaleMode::Shop },
                created_at,
            };
            if n.is_multiple_of(every) {
                self.products.push((one.id.clone(), one.name.clone(), created_at));
            }
            batch.push(one);
            if u64::try_from(batch.len())? >= BATCH {
                baseline::insert_products(self.app.store(), &batch).await?;
                batch.clear();
            }
        }
        Ok(baseline::insert_products(self.app.store(), &batch).await?)
    }

    /// Copies of an order that the function makes here. The first buyer has a thousand, if there are so many; the others ten each.
    async fn fill_orders(&mut self, orders: u64, now: DateTime<Utc>) -> Result<()> {
        let address = json!({ "name": "张三", "phone": "13800138000", "province": "浙江省", "city": "杭州市", "detail": "文三路 1 号" });
        let items = json!([{ "productId": "p-apple", "quantity": 2 }, { "productId": "p-rice", "quantity": 1 }]);
        let input = json!({ "items": items, "address": address, "paymentMethod": "wechat" });
        let caller = self.buyer(0)?.caller();
        let made = self.call("a sample", Call { function: "submitOrder", caller, input }).await?;
        let sample = made.get("orderId").and_then(Value::as_str).context("no sample")?;
        let sample = OrderId::parse(sample)?;
        let every = (orders / REMEMBERED).max(1);
        let numbers: Vec<u64> = (0..orders).collect();
        for some in numbers.chunks(usize::try_from(BATCH)?) {
            let mut pasts = Vec::with_capacity(some.len());
            let mut buyers = Vec::with_capacity(some.len());
            for n in some {
                let luck = scattered(*n);
                let others = orders / PER_BUYER;
                let heavy = n.is_multiple_of((orders / 1_000).max(1));
                let buyer = if heavy { 0 } else { 1u64.saturating_add((luck >> 8) % others.max(1)) };
                let person = self.people.get(usize::try_from(buyer)?).context("nobody")?;
                let status = match luck % 100 {
                    0..5 => OrderStatus::PendingPayment,
                    5..15 => OrderStatus::Paid,
                    15..25 => OrderStatus::Shipped,
                    25..85 => OrderStatus::Completed,
                    _ => OrderStatus::Closed,
                };
                let order_type = if (luck >> 50).is_multiple_of(100) { OrderType::Lottery } else { OrderType::Normal };
                let at = now - TimeDelta::seconds(i64::try_from(orders.saturating_sub(*n))?);
                let buyer_of = Buyer { user: &person.user, open_id: &person.open_id };
                pasts.push(Past { buyer: buyer_of, at, status, order_type });
                buyers.push(buyer);
            }
            let ids = baseline::copy_orders(self.app.store(), &sample, &pasts).await?;
            for (((n, past), id), buyer) in some.iter().zip(&pasts).zip(ids).zip(buyers) {
                if n.is_multiple_of(every) {
                    self.orders.push((buyer, id, past.at));
                }
            }
        }
        Ok(())
    }

    async fn call(&self, question: &str, call: Call) -> Result<Value> {
        let Call { function, caller, input } = call;
        let function = self.functions.iter().find(|f| f.name() == function).context("no such function")?;
        let body = Bytes::from(input.to_string());
        let invocation = Invocation { proof: Proof::Caller(caller), headers: HeaderMap::new(), body, trace_id: None };
        let answer = edge::invoke(&self.app, function, invocation).await;
        let body = answer.body.unwrap_or_default();
        ensure!(answer.status == 200, "{question} was answered {}: {body}", answer.status);
        Ok(body)
    }

    fn buyer(&self, n: u64) -> Result<&Person> {
        let all = u64::try_from(self.people.len())?.max(1);
        self.people.get(usize::try_from(n % all)?).context("nobody")
    }

    fn by_user(&self, n: u64, input: Value) -> Result<Call> {
        Ok(Call { function: "orders", caller: self.buyer(1u64.saturating_add(scattered(n) >> 8))?.caller(), input })
    }

    fn order(&self, n: u64) -> Result<&(u64, OrderId, DateTime<Utc>)> {
        let all = u64::try_from(self.orders.len())?.max(1);
        self.orders.get(usize::try_from(scattered(n) % all)?).context("no orders")
    }

    fn product(&self, n: u64) -> Result<&(ProductId, String, DateTime<Utc>)> {
        let all = u64::try_from(self.products.len())?.max(1);
        self.products.get(usize::try_from(scattered(n) % all)?).context("no products")
    }

    fn order_cursor(&self, n: u64) -> Result<String> {
        let (_, id, at) = self.order(n)?;
        Ok(cursor(*at, id.as_str()))
    }

    fn product_cursor(&self, n: u64) -> Result<String> {
        let (id, _, at) = self.product(n)?;
        Ok(cursor(*at, id.as_str()))
    }
}

/// The place behind this row, as lists name it.
fn cursor(at: DateTime<Utc>, id: &str) -> String {
    let place = format!("{} {id}", at.timestamp_millis());
    place.bytes().fold(String::new(), |mut hex, byte| {
        // Writing to a String cannot fail.
        write!(hex, "{byte:02x}").unwrap_or(());
        hex
    })
}
