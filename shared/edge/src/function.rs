//! A cloud function as a value: its name, who may call it, what it needs, and its handler.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use domain::Failure;
use http::HeaderMap;
use schemars::JsonSchema;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::app::Context;
use crate::input::{self, TypedError};

/// A caller that a function lets in. Nothing is let in by default.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accept {
    User,
    /// A service key with this scope, or with `*`. An empty scope stands for any key.
    Service(&'static str),
    /// Staff with this permission, or with `*`. An empty one stands for any staff.
    Staff(&'static str),
    Timer,
    /// Everyone; the handler checks the provider's own signature. Other credentials are not looked at.
    Provider,
    /// Everyone, whoever they are. A credential that is presented must still hold.
    Anonymous,
}

/// A part of the configuration that a function cannot do without.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    Store,
    Pay,
    OpenApi,
    Session,
    /// Sending text messages.
    Sms,
    /// Sending text messages, where `ASSIGNMENT_SMS_TEMPLATE_ID` says that the shop wants them.
    Texts,
    /// Making and checking verification codes.
    VerifyCodes,
    /// Sealing and opening personal data and draw secrets.
    FieldKeys,
    /// Finding identity numbers.
    IndexKeys,
    /// Public randomness for draws.
    Drand,
}

/// A cloud function. Cheap to clone.
#[derive(Clone)]
pub struct Function {
    name: &'static str,
    summary: &'static str,
    callers: &'static [Accept],
    needs: &'static [Need],
    timeout: Duration,
    make_schema: fn() -> Value,
    /// Made on first use: a cold start should not wait for it.
    schema: Arc<OnceLock<Value>>,
    handler: Handler,
}

pub(crate) type Pending<T> = Pin<Box<dyn Future<Output = Result<T, Failure>> + Send>>;

/// A handler at work, or why its input could not be parsed.
pub(crate) type Started = Result<Pending<Reply>, TypedError>;

/// Behind this nothing is generic any more, so the hosts are compiled once and not once per function.
#[derive(Clone)]
pub(crate) enum Handler {
    Typed(TypedHandler),
    Raw(RawHandler),
}

type RawHandler = Arc<dyn Fn(Context, RawRequest) -> Pending<RawReply> + Send + Sync>;

type Start = Arc<dyn Fn(Context, &[u8]) -> Started + Send + Sync>;

#[derive(Clone)]
pub(crate) struct TypedHandler {
    /// Parse the input and start the handler.
    pub start: Start,
    /// Only parse, to learn which field of a broken text is to blame.
    pub probe: fn(&[u8]) -> Option<TypedError>,
}

/// A request as it came in, for functions that check a signature over the raw body.
#[derive(Clone, Debug)]
pub struct RawRequest {
    /// Without the platform's own `x-scf-*` headers.
    pub headers: HeaderMap,
    /// What stood behind the `?` of the address; empty on other ways in.
    pub query: String,
    pub body: Bytes,
}

/// A reply that goes out as it is, without the envelope.
#[derive(Clone, Debug, PartialEq)]
pub struct RawReply {
    pub status: u16,
    /// A text goes out as XML, as it is; anything else as JSON.
    pub body: Option<Value>,
}

/// What a handler answers: the fields of the result, without the envelope's own.
#[derive(Clone, Debug, PartialEq)]
pub struct Reply {
    pub(crate) fields: Value,
    pub(crate) replayed: bool,
}

impl Reply {
    /// A reply with the fields of `output`, which must serialize to an object (`()` gives an empty one).
    pub fn of<T: Serialize + ?Sized>(output: &T) -> Result<Self, Failure> {
        match serde_json::to_value(output) {
            Ok(fields @ Value::Object(_)) => Ok(Self { fields, replayed: false }),
            Ok(Value::Null) => Ok(Self { fields: Value::Object(Map::new()), replayed: false }),
            Ok(_) => Err(Failure::invariant("a reply must be an object")),
            Err(error) => Err(Failure::Internal(Box::new(error))),
        }
    }

    /// The stored reply of an earlier request with the same `requestId`.
    pub fn replayed(fields: Value) -> Self {
        Self { fields, replayed: true }
    }

    /// Mark as a repeat when it is one.
    pub fn with_replayed(mut self, replayed: bool) -> Self {
        self.replayed = replayed;
        self
    }

    /// The fields, e.g. to store them with the effect.
    pub fn value(&self) -> &Value {
        &self.fields
    }
}

impl Function {
    /// A function that takes a JSON object as `I` and answers in the envelope.
    ///
    /// Keep `I` flat, with `action` as a field: an internally tagged enum hides from the parser which field was wrong.
    pub fn new<I, F, Fut>(name: &'static str, handler: F) -> Self
    where
        I: DeserializeOwned + JsonSchema + Send + 'static,
        F: Fn(Context, I) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Reply, Failure>> + Send + 'static,
    {
        let start = move |context: Context, body: &[u8]| {
            let input = input::typed::<I>(body)?;
            let pending: Pending<Reply> = Box::pin(handler(context, input));
            Ok(pending)
        };
        let typed = TypedHandler { start: Arc::new(start), probe: |body| input::typed::<I>(body).err() };
        Self::with(name, Handler::Typed(typed), || schemars::schema_for!(I).to_value())
    }

    /// A function that reads the raw body itself and answers without the envelope.
    /// What it fails with goes out as `{"code":"FAIL","message":…}` under the failure's status.
    pub fn raw<F, Fut>(name: &'static str, handler: F) -> Self
    where
        F: Fn(Context, RawRequest) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<RawReply, Failure>> + Send + 'static,
    {
        let start = move |context, request| {
            let pending: Pending<RawReply> = Box::pin(handler(context, request));
            pending
        };
        Self::with(name, Handler::Raw(Arc::new(start)), || Value::Bool(true))
    }

    fn with(name: &'static str, handler: Handler, make_schema: fn() -> Value) -> Self {
        let (timeout, schema) = (Duration::from_secs(15), Arc::default());
        Self { name, summary: "", callers: &[], needs: &[], timeout, make_schema, schema, handler }
    }

    /// Who may call it.
    pub fn accepts(mut self, callers: &'static [Accept]) -> Self {
        self.callers = callers;
        self
    }

    /// Which parts of the configuration must be present at start.
    pub fn needs(mut self, needs: &'static [Need]) -> Self {
        self.needs = needs;
        self
    }

    /// One line for people, in Chinese.
    pub fn summary(mut self, summary: &'static str) -> Self {
        self.summary = summary;
        self
    }

    /// How long a call may take before it is given up; 15 seconds unless set.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// The name on the wire.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// The line that [`Function::summary`] set.
    pub fn summary_text(&self) -> &'static str {
        self.summary
    }

    /// What [`Function::accepts`] set.
    pub fn callers(&self) -> &'static [Accept] {
        self.callers
    }

    /// What must be configured: the declared needs, and the store where service nonces have to be remembered.
    pub fn all_needs(&self) -> Vec<Need> {
        let mut needs = self.needs.to_vec();
        let signed = self.callers.iter().any(|accept| matches!(accept, Accept::Service(_)));
        if signed && !needs.contains(&Need::Store) {
            needs.push(Need::Store);
        }
        needs
    }

    /// What [`Function::timeout`] set.
    pub fn time_limit(&self) -> Duration {
        self.timeout
    }

    /// The JSON Schema of the input; `true` (anything) for a raw function.
    pub fn input_schema(&self) -> Value {
        self.schema().clone()
    }

    pub(crate) fn schema(&self) -> &Value {
        self.schema.get_or_init(self.make_schema)
    }

    /// Whether it answers without the envelope.
    pub fn is_raw(&self) -> bool {
        matches!(self.handler, Handler::Raw(_))
    }

    pub(crate) fn handler(&self) -> &Handler {
        &self.handler
    }

    pub(crate) fn accepts_provider(&self) -> bool {
        self.callers.contains(&Accept::Provider)
    }
}
