//! Subscribe messages: which template tells what, the values its keys take, and what an answer to a send means.
//!
//! WeChat refuses a whole message (47003) for one character too many, an empty value, a control character, or a character that
//! the key's type does not know. So [`fit`] makes any text fit, at the price of losing what the type cannot show.
//!
//! Source: developers.weixin.qq.com/miniprogram/dev/OpenApiDoc/ — mp-message-management/subscribe-message/sendMessage, "data".

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use chrono::{DateTime, Datelike, FixedOffset, NaiveDate, Timelike};
use domain::{Consent, Event, Tells};
use serde::{Deserialize, Deserializer};
use unicode_segmentation::UnicodeSegmentation;

use crate::TransportKind;
use crate::open::Error;

/// The events of the shop that can have a template.
pub const NAMES: [&str; 7] =
    ["assignment", "orderPaid", "orderShipped", "orderArrived", "orderRefunded", "lotteryResult", "coinExpiring"];

/// WeChat's templates have at most this many keys.
const FIELDS_MAX: usize = 5;
/// Characters that a `thing` holds.
pub const THING_MAX: usize = 20;
/// Real ids have 43 characters.
const TEMPLATE_ID_MAX: usize = 64;
/// Of a page of the mini program with its query.
const PAGE_MAX: usize = 1024;

/// How a message of the shop fills a template of the mini-program.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Template {
    /// What the message is about: one of [`NAMES`].
    pub name: String,
    /// The template's id in the WeChat portal.
    #[serde(alias = "id")]
    pub template_id: String,
    /// The message's value for each of the template's keys: `{"thing1": "activityName"}`, or shorter `"thing1=activityName"` with
    /// commas in between, for the platform takes 4 KB of variables.
    #[serde(deserialize_with = "fields")]
    pub fields: BTreeMap<String, String>,
    /// The page of the mini-program that a tap opens.
    #[serde(default)]
    pub page: Option<String>,
    /// A long-term template: one acceptance allows any number of messages.
    #[serde(default)]
    pub long_term: bool,
    /// What to do when nobody knows whether a message has arrived.
    #[serde(default)]
    pub on_unknown: OnUnknown,
}

/// Reads fields in either form. What is wrong with them is found by [`problems`].
fn fields<'de, D: Deserializer<'de>>(deserializer: D) -> Result<BTreeMap<String, String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Given {
        Map(BTreeMap<String, String>),
        Text(String),
    }
    Ok(match Given::deserialize(deserializer)? {
        Given::Map(map) => map,
        Given::Text(text) => {
            let pair = |pair: &str| {
                let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
                (key.trim().to_owned(), value.trim().to_owned())
            };
            text.split(',').map(pair).collect()
        }
    })
}

/// What follows a send whose outcome is unknown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnUnknown {
    /// Nothing: sending again could show the message twice and use up a second permission.
    #[default]
    Stop,
    /// One more try: this message is better seen twice than never.
    Resend,
}

/// The events of the shop that these templates tell, and how users agree to them.
pub fn tells(templates: &[Template]) -> Tells {
    Tells::new(Event::ALL.into_iter().filter_map(|event| {
        let template = templates.iter().find(|template| template.name == event.as_str())?;
        let consent = match template.long_term {
            true => Consent::LongTerm,
            false => Consent::EachTime { template_id: template.template_id.clone() },
        };
        Some((event, consent))
    }))
}

/// What is wrong with these templates, each problem naming its template and field; `known` are the names a template may have.
pub fn problems(templates: &[Template], known: &[&str]) -> Vec<String> {
    let mut found = Vec::new();
    let mut seen = BTreeSet::new();
    for template in templates {
        let name = template.name.as_str();
        let mut problem = |what: String| found.push(format!("template {name:?}: {what}"));
        if !known.contains(&name) {
            problem(format!("the name is unknown; it must be one of {}", known.join(", ")));
        }
        if !seen.insert(name) {
            problem("the name is there twice".to_owned());
        }
        let id = template.template_id.as_str();
        if id.is_empty()
            || id.len() > TEMPLATE_ID_MAX
            || !id.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
        {
            problem("templateId must be the id from the portal: 1 to 64 letters, digits, - and _".to_owned());
        }
        if !(1..=FIELDS_MAX).contains(&template.fields.len()) {
            problem(format!("fields must have 1 to {FIELDS_MAX} keys"));
        }
        for (key, value) in &template.fields {
            if Kind::of(key).is_none() {
                problem(format!(
                    "field {key:?} must be a type of the portal and a number, such as thing1; types are {}",
                    Kind::ALL.map(|(kind, _)| kind).join(", ")
                ));
            }
            if value.is_empty() || !value.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
                problem(format!("field {key:?} must name a value of the message, such as \"activityName\""));
            }
        }
        if let Some(page) = &template.page
            && (page.is_empty() || page.len() > PAGE_MAX || page.chars().any(|c| c.is_control() || c.is_whitespace()))
        {
            problem("page must be the path of a page, such as pages/order/detail".to_owned());
        }
    }
    found
}

/// The types of a template's keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Thing,
    Number,
    Letter,
    Symbol,
    CharacterString,
    Time,
    Date,
    Amount,
    PhoneNumber,
    CarNumber,
    Name,
    Phrase,
    Listed,
}

impl Kind {
    const ALL: [(&'static str, Self); 14] = [
        ("thing", Self::Thing),
        ("number", Self::Number),
        ("letter", Self::Letter),
        ("symbol", Self::Symbol),
        ("character_string", Self::CharacterString),
        ("time", Self::Time),
        ("date", Self::Date),
        ("amount", Self::Amount),
        ("phone_number", Self::PhoneNumber),
        ("car_number", Self::CarNumber),
        ("name", Self::Name),
        ("phrase", Self::Phrase),
        ("const", Self::Listed),
        ("enum", Self::Listed),
    ];

    /// The type in a key such as `thing1`.
    fn of(key: &str) -> Option<Self> {
        let kind = key.trim_end_matches(|c: char| c.is_ascii_digit());
        if kind.len() == key.len() {
            return None;
        }
        Self::ALL.iter().find(|(name, _)| *name == kind).map(|(_, kind)| *kind)
    }
}

/// `value` as the type of `key` allows it. Lengths are counted in UTF-16 units, of which WeChat's "characters" are at most as many;
/// text is cut between graphemes, so that no emoji and no accent is torn.
///
/// | type | kept | instead of nothing |
/// |---|---|---|
/// | thing | everything visible, 20 | `无` |
/// | number | digits and one point, 32; it knows no sign | `0` |
/// | letter | `A`–`Z` `a`–`z`, 32 | `NA` |
/// | symbol | punctuation and signs, 5 | `-` |
/// | character_string | printable ASCII, 32 | `-` |
/// | time | time with or without date, or two with `~`; an RFC 3339 instant becomes Beijing time | `00:00` |
/// | date | date with or without time, likewise | `1970年1月1日` |
/// | amount | a currency sign, ten digits with a point among them, `元`; it knows no sign either | `0元` |
/// | phone_number | digits and `+-()`, 17; a mask's `*` becomes `-` | `0` |
/// | car_number | letters and digits, a Chinese character first and last, 8 | `无` |
/// | name | Chinese characters and letters, 10 or 20 letters alone | `无` |
/// | phrase | Chinese characters, 5 | `无` |
/// | const, enum | as it is: only the template knows its list | `无` |
///
/// Full-width letters and digits become the plain ones where only those are allowed. A key of no known type is treated as a thing.
pub fn fit(key: &str, value: &str) -> String {
    let text = clean(value);
    let (fitting, nothing) = match Kind::of(key) {
        None | Some(Kind::Thing) => (cut(&text, THING_MAX), "无"),
        Some(Kind::Number) => (number(&text, 32, 32), "0"),
        Some(Kind::Letter) => (pick(&text, 32, |c| c.is_ascii_alphabetic()), "NA"),
        Some(Kind::Symbol) => (pick(&text, 5, is_symbol), "-"),
        Some(Kind::CharacterString) => (pick(&text, 32, |c| c.is_ascii_graphic() || c == ' '), "-"),
        Some(Kind::Time) => (span(&text, Moment::as_time), "00:00"),
        Some(Kind::Date) => (span(&text, Moment::as_date), "1970年1月1日"),
        Some(Kind::Amount) => (amount(&text), "0元"),
        Some(Kind::PhoneNumber) => (phone_number(&text), "0"),
        Some(Kind::CarNumber) => (car_number(&text), "无"),
        Some(Kind::Name) => (name(&text), "无"),
        Some(Kind::Phrase) => (text.chars().filter(|c| is_han(*c)).take(5).collect(), "无"),
        Some(Kind::Listed) => (text, "无"),
    };
    if fitting.is_empty() { nothing.to_owned() } else { fitting }
}

/// Any text without control characters, cut to `max` UTF-16 units; empty if nothing in it can be seen.
pub(crate) fn shorten(text: &str, max: usize) -> String {
    cut(&clean(text), max)
}

/// Without control characters, invisible marks and repeated space; empty if nothing in it can be seen.
fn clean(value: &str) -> String {
    let mut text = String::with_capacity(value.len());
    for c in value.chars() {
        if c.is_whitespace() {
            if !text.is_empty() && !text.ends_with(' ') {
                text.push(' ');
            }
        } else if !c.is_control() && !is_invisible(c) {
            text.push(c);
        }
    }
    text.truncate(text.trim_end().len());
    if text.chars().all(|c| c == ' ' || joins(c)) { String::new() } else { text }
}

/// Marks that show nothing and can only turn or hide what stands beside them.
fn is_invisible(c: char) -> bool {
    matches!(c,
        '\u{AD}' | '\u{61C}' | '\u{180E}' | '\u{200B}' | '\u{200E}' | '\u{200F}' | '\u{202A}'..='\u{202E}'
        | '\u{2060}'..='\u{206F}' | '\u{FEFF}' | '\u{FFF0}'..='\u{FFFF}' | '\u{E0000}'..='\u{E001F}')
}

/// Shows nothing by itself either, but is part of emoji and of some scripts.
fn joins(c: char) -> bool {
    matches!(c, '\u{200C}' | '\u{200D}' | '\u{FE00}'..='\u{FE0F}' | '\u{E0020}'..='\u{E007F}' | '\u{E0100}'..='\u{E01EF}')
}

/// The first graphemes of at most `max` UTF-16 units; one that is longer by itself is left out.
pub fn cut(text: &str, max: usize) -> String {
    let mut room = max;
    let mut end = String::new();
    for grapheme in text.graphemes(true) {
        let units = grapheme.encode_utf16().count();
        if units > max {
            continue;
        }
        let Some(left) = room.checked_sub(units) else { break };
        room = left;
        end.push_str(grapheme);
    }
    end.truncate(end.trim_end().len());
    end
}

/// The allowed characters, narrowed first, at most `max`. All allowed ones are one UTF-16 unit long.
fn pick(text: &str, max: usize, allowed: impl Fn(char) -> bool) -> String {
    let picked: String = text.chars().map(narrow).filter(|c| allowed(*c)).collect();
    // Where something was left out there may be two spaces now.
    let cut: String = clean(&picked).chars().take(max).collect();
    cut.trim_end().to_owned()
}

/// A full-width form as ASCII, other characters as they are.
fn narrow(c: char) -> char {
    match c {
        '\u{FF01}'..='\u{FF5E}' => u32::from(c).checked_sub(0xFEE0).and_then(char::from_u32).unwrap_or(c),
        '\u{3000}' => ' ',
        other => other,
    }
}

/// The characters of everyday Chinese. Rarer ones, in the extensions, are not sure to pass.
fn is_han(c: char) -> bool {
    ('\u{4E00}'..='\u{9FFF}').contains(&c)
}

fn is_symbol(c: char) -> bool {
    c.is_ascii_punctuation()
        || matches!(c, '¥' | '￥' | '€' | '£' | '°' | '±' | '×' | '÷' | '·'
            | '\u{2010}'..='\u{2027}' | '\u{2030}'..='\u{203E}' | '\u{3001}'..='\u{3003}' | '\u{3008}'..='\u{3011}')
}

/// Digits and the first point: at most `digits_max` digits, and `len_max` characters with the point.
fn number(text: &str, digits_max: usize, len_max: usize) -> String {
    let mut kept = String::new();
    let mut digits: usize = 0;
    for c in text.chars().map(narrow) {
        if kept.len() >= len_max {
            break;
        }
        if c.is_ascii_digit() && digits < digits_max {
            kept.push(c);
            digits = digits.saturating_add(1);
        } else if c == '.' && !kept.is_empty() && !kept.contains('.') {
            kept.push(c);
        } else if c == '.' && kept.is_empty() {
            kept.push_str("0.");
            digits = 1;
        }
    }
    kept.truncate(kept.trim_end_matches('.').len());
    kept
}

fn amount(text: &str) -> String {
    let yuan = text.ends_with('元');
    let sign =
        text.chars().map(narrow).find(|c| !c.is_ascii_punctuation() || *c == '$').filter(|c| "¥￥$€£".contains(*c));
    let digits = number(text, usize::MAX, usize::MAX);
    let (whole, fraction) = digits.split_once('.').unwrap_or((&digits, ""));
    let whole = whole.trim_start_matches('0');
    let whole = match whole.len() {
        0 if digits.is_empty() => return String::new(),
        0 => "0",
        1..=10 => whole,
        // No sum of a shop; as much as can be said.
        _ => "9999999999",
    };
    let fraction: String = fraction.chars().take(10_usize.saturating_sub(whole.len())).collect();
    let point = if fraction.is_empty() { "" } else { "." };
    let (sign, yuan) = (sign.map(String::from).unwrap_or_default(), if yuan { "元" } else { "" });
    format!("{sign}{whole}{point}{fraction}{yuan}")
}

fn phone_number(text: &str) -> String {
    let kept: String = text
        .chars()
        .map(narrow)
        .map(|c| if c == '*' { '-' } else { c })
        .filter(|c| c.is_ascii_digit() || "+-()".contains(*c))
        .collect();
    if !kept.contains(|c: char| c.is_ascii_digit()) {
        return String::new();
    }
    if kept.len() <= 17 {
        return kept;
    }
    // The digits say more than what separates them.
    kept.chars().filter(char::is_ascii_digit).take(17).collect()
}

fn car_number(text: &str) -> String {
    let kept: Vec<char> = text.chars().map(narrow).filter(|c| is_han(*c) || c.is_ascii_alphanumeric()).collect();
    let last = kept.len().saturating_sub(1);
    kept.into_iter()
        .enumerate()
        .filter(|(at, c)| !is_han(*c) || *at == 0 || *at == last)
        .map(|(_, c)| c)
        .take(8)
        .collect()
}

fn name(text: &str) -> String {
    let kept: String = text.chars().map(narrow).filter(|c| is_han(*c) || c.is_ascii_alphabetic()).collect();
    let max = if kept.is_ascii() { 20 } else { 10 };
    kept.chars().take(max).collect()
}

/// A point in time as people write it.
struct Moment {
    date: Option<NaiveDate>,
    /// Hour and minute; a template shows no seconds.
    time: Option<(u32, u32)>,
}

impl Moment {
    fn parse(text: &str) -> Option<Self> {
        let beijing = FixedOffset::east_opt(8 * 3600)?;
        if let Ok(instant) = DateTime::parse_from_rfc3339(text) {
            let at = instant.with_timezone(&beijing).naive_local();
            return Self { date: Some(at.date()), time: Some((at.hour(), at.minute())) }.plausible();
        }
        let (date, rest) = match split_date(text) {
            Some((date, rest)) => (Some(date), rest),
            None => (None, text),
        };
        let time = split_time(rest.trim_start_matches([' ', 'T']));
        Self { date, time }.plausible()
    }

    fn plausible(self) -> Option<Self> {
        let good = self.date.is_none_or(|date| (1000..=9999).contains(&date.year()))
            && (self.date.is_some() || self.time.is_some());
        good.then_some(self)
    }

    fn day(&self) -> Option<String> {
        self.date.map(|date| format!("{}年{}月{}日", date.year(), date.month(), date.day()))
    }

    fn as_time(&self) -> Option<String> {
        let (hour, minute) = self.time.or(self.date.map(|_| (0, 0)))?;
        let clock = format!("{hour:02}:{minute:02}");
        Some(match self.day() {
            Some(day) => format!("{day} {clock}"),
            None => clock,
        })
    }

    fn as_date(&self) -> Option<String> {
        let day = self.day()?;
        Some(match self.time {
            Some((hour, minute)) => format!("{day} {hour:02}:{minute:02}"),
            None => day,
        })
    }
}

/// One moment, or two with `~` between them; empty if it cannot be read.
fn span(text: &str, show: impl Fn(&Moment) -> Option<String>) -> String {
    let text: String = text.chars().map(|c| if c == '～' { '~' } else { narrow(c) }).collect();
    let parts: Vec<&str> = text.split('~').map(str::trim).collect();
    if parts.len() > 2 {
        return String::new();
    }
    let shown: Option<Vec<String>> = parts.into_iter().map(|part| show(&Moment::parse(part)?)).collect();
    shown.unwrap_or_default().join("~")
}

/// `2019年10月1日`, `2019-10-01`, `2019/10/1` or `2019.10.1`, and what follows it.
fn split_date(text: &str) -> Option<(NaiveDate, &str)> {
    let (year, rest) = digits(text, 4)?;
    let (separator, rest) = first(rest)?;
    let (month, rest) = digits(rest, 2)?;
    let (second, rest) = first(rest)?;
    let (day, rest) = digits(rest, 2)?;
    let rest = match (separator, second) {
        ('年', '月') => rest.strip_prefix('日').unwrap_or(rest),
        ('-', '-') | ('/', '/') | ('.', '.') => rest,
        _ => return None,
    };
    Some((NaiveDate::from_ymd_opt(i32::try_from(year).ok()?, month, day)?, rest))
}

/// `15:01` at the start of the text, whatever follows it.
fn split_time(text: &str) -> Option<(u32, u32)> {
    let (hour, rest) = digits(text, 2)?;
    let (separator, rest) = first(rest)?;
    let (minute, _) = digits(rest, 2)?;
    (separator == ':' && hour < 24 && minute < 60).then_some((hour, minute))
}

/// A number of one to `max` digits, and what follows it.
fn digits(text: &str, max: usize) -> Option<(u32, &str)> {
    let length = text.bytes().take(max).take_while(u8::is_ascii_digit).count();
    let (number, rest) = text.split_at_checked(length)?;
    Some((number.parse().ok()?, rest))
}

fn first(text: &str) -> Option<(char, &str)> {
    let mut chars = text.chars();
    Some((chars.next()?, chars.as_str()))
}

/// What a message that was accepted is known by.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sent {
    /// WeChat's number of the message; it comes back in the event about its delivery. Not every account is told one.
    pub msgid: Option<String>,
}

/// What to do about a message that was not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SendClass {
    /// The user has not subscribed, has cancelled, or the permission is used up. Final. (43101)
    NotSubscribed,
    /// Another message to the same user is on its way; nothing was sent. Try again soon. (43108)
    Concurrent,
    /// Nothing was sent, and the same try can succeed later. (-1, HTTP 429) -1 is an answer, unlike silence: it says that the request
    /// was not carried out and asks to try again.
    Retry,
    /// Nothing was sent, and for this long nothing will be, whoever the message is for. (45009, 45011; the same and a refused
    /// configuration when fetching the access token)
    Pause(Duration),
    /// Final: somebody must change something first. The code says what.
    Operator(&'static str),
    /// It may have arrived: no answer, half an answer, or HTTP 5xx.
    Unknown,
    /// It never left: no connection, or no access token. Try again later.
    NotSent,
}

/// How long everything rests after 45011, the quota of a minute.
pub const PAUSE_MINUTE: Duration = Duration::from_secs(60);
/// How long after 45009, the quota of a day: somebody may have reset it meanwhile.
pub const PAUSE_QUOTA: Duration = Duration::from_secs(3600);
/// How long after the appid, the secret or this machine's address was refused.
pub const PAUSE_CONFIG: Duration = Duration::from_secs(300);

/// Rests of a few seconds are over before anything is tried again.
const PAUSE_SHORTEST: Duration = Duration::from_secs(5);

impl Error {
    /// What this error means for a subscribe message.
    pub fn send_class(&self) -> SendClass {
        match self {
            Self::Token(error) => error.pause().map_or(SendClass::NotSent, SendClass::Pause),
            Self::RateLimited { errcode: 45009, .. } => SendClass::Pause(PAUSE_QUOTA),
            Self::RateLimited { .. } => SendClass::Pause(PAUSE_MINUTE),
            Self::Busy { .. } => SendClass::Retry,
            // Refused twice, the second time right after it was fetched.
            Self::InvalidToken { .. } => SendClass::NotSent,
            Self::Config { .. } | Self::Misuse(_) | Self::Build(_) => SendClass::Operator("WECHAT_CONFIG"),
            Self::Rejected { errcode, .. } => match errcode {
                43101 => SendClass::NotSubscribed,
                43108 => SendClass::Concurrent,
                40003 => SendClass::Operator("OPENID_INVALID"),
                40037 => SendClass::Operator("TEMPLATE_INVALID"),
                43107 => SendClass::Operator("MESSAGES_BANNED"),
                45168 => SendClass::Operator("SENSITIVE_WORD"),
                47003 => SendClass::Operator("VALUES_REFUSED"),
                _ => SendClass::Operator("REFUSED_BY_WECHAT"),
            },
            Self::InvalidCode { .. } | Self::Blocked { .. } | Self::OtherApp => {
                SendClass::Operator("REFUSED_BY_WECHAT")
            }
            Self::Resting { .. } | Self::Waited => SendClass::NotSent,
            Self::Http(status) if status.as_u16() == 429 => SendClass::Retry,
            Self::Http(status) if status.is_client_error() && status.as_u16() != 408 => {
                SendClass::Operator("REFUSED_BY_WECHAT")
            }
            Self::Transport(error) if error.kind == TransportKind::Connect => SendClass::NotSent,
            Self::Http(_) | Self::Transport(_) | Self::Malformed(_) => SendClass::Unknown,
        }
    }

    /// How long to leave WeChat alone after this answer to a request for an access token.
    pub(crate) fn pause(&self) -> Option<Duration> {
        match self {
            Self::RateLimited { errcode: 45009, .. } => Some(PAUSE_QUOTA),
            Self::RateLimited { .. } => Some(PAUSE_MINUTE),
            Self::Config { .. } => Some(PAUSE_CONFIG),
            // A short rest is not worth stopping everything for.
            Self::Resting { errcode, left } if *errcode > 0 && *left > PAUSE_SHORTEST => Some(*left),
            _ => None,
        }
    }
}
