'use strict';

// The two ways to the shop. Each gives `call(name, text, clock, signal)`: one try, freshly signed, answered with the shop's
// envelope as `{status, body, date, retryAfter}`, or failed with a CrmError.

const { post } = require('./http.cjs');
const { CrmError } = require('./error.cjs');
const { sleep } = require('./pending.cjs');
const { signedEvent, signedHeaders } = require('./signature.cjs');

const parsed = (text) => {
  try {
    const value = JSON.parse(text);
    return typeof value === 'object' && value !== null && !Array.isArray(value) ? value : null;
  } catch {
    return null;
  }
};

const isTransient = (status) => status === 429 || status >= 500;

/** An answer that is not the shop's, such as a proxy's page. Its text is left out: it may be anything. */
const notOurs = (answer, whose) =>
  new CrmError('BAD_RESPONSE', `HTTP ${answer.status} without ${whose} answer in it`, {
    status: answer.status,
    retryable: isTransient(answer.status),
    retryAfterSeconds: secondsOf(answer.headers['retry-after']),
  });

/** Retry-After is seconds or a date. */
function secondsOf(text) {
  if (text === undefined) return undefined;
  if (/^\d+$/.test(text)) return Number(text);
  const at = Date.parse(text);
  return Number.isNaN(at) ? undefined : Math.max(0, Math.ceil((at - Date.now()) / 1000));
}

/** Signed requests to the shop's own address. */
function direct({ baseUrl, keyId, secret, timeoutMs, agents, signedPath }) {
  return {
    async call(name, text, clock, signal) {
      const url = new URL(`${baseUrl}/${name}`);
      const path = signedPath ? signedPath(name) : url.pathname;
      const headers = signedHeaders({ keyId, secret, path, body: text, now: clock() });
      const answer = await post(agents, url, headers, text, timeoutMs, signal);
      const body = parsed(answer.text);
      if (!body || typeof body.success !== 'boolean') throw notOurs(answer, "the shop's");
      return { status: answer.status, body, date: answer.headers.date, retryAfter: secondsOf(answer.headers['retry-after']) };
    },
  };
}

const TOKEN_INVALID = new Set([40001, 40014, 42001]);
/** What WeChat's own codes come to. Others are `WECHAT_ERROR`, final. */
const WECHAT_CODES = new Map([
  [-1, ['WECHAT_BUSY', true]],
  [-1000, ['WECHAT_BUSY', true]],
  [45009, ['WECHAT_QUOTA', false]],
  [45011, ['WECHAT_TOO_OFTEN', true]],
  [40001, ['WECHAT_TOKEN', false]],
  [40014, ['WECHAT_TOKEN', false]],
  [42001, ['WECHAT_TOKEN', false]],
  [41001, ['WECHAT_TOKEN', false]],
  [40002, ['WECHAT_CREDENTIALS', false]],
  [40013, ['WECHAT_CREDENTIALS', false]],
  [40125, ['WECHAT_CREDENTIALS', false]],
  [40164, ['WECHAT_IP_NOT_ALLOWED', false]],
  [48001, ['WECHAT_NOT_ALLOWED', false]],
  [85088, ['WECHAT_CLOUD_NOT_ENABLED', false]],
  [-501000, ['WECHAT_FUNCTION_NOT_FOUND', false]],
  [-501001, ['WECHAT_BUSY', true]],
  [-501002, ['WECHAT_FUNCTION_TIMEOUT', true]],
  [-501003, ['WECHAT_QUOTA', false]],
  [-501004, ['WECHAT_QUOTA', false]],
  [-501005, ['WECHAT_ENV_NOT_FOUND', false]],
  [-504002, ['WECHAT_FUNCTION_FAILED', true]],
]);

function wechatError(errcode, errmsg) {
  const [code, retryable] = WECHAT_CODES.get(errcode) || ['WECHAT_ERROR', false];
  const rid = /rid: ?([\w-]+)/.exec(typeof errmsg === 'string' ? errmsg : '');
  const error = new CrmError(code, `WeChat answered errcode ${errcode}${rid ? ` (rid ${rid[1]})` : ''}`, { errcode, retryable });
  if (errcode === 45011) error.retryAfterSeconds = 60;
  return error;
}

/** A token is renewed this long before it ends; WeChat lets the old one live as long. */
const TOKEN_EARLY_MS = 5 * 60 * 1000;

/** WeChat's `invokecloudfunction`, with the signature inside the event. */
function throughWechat({ wechatBaseUrl, tokenUrl, appid, appSecret, env, getAccessToken, keyId, secret, timeoutMs, agents }) {
  let held = null;
  // Renewals apart: who was refused a token must not get it again from a fetch that began before.
  const fetching = { plain: null, renewal: null };

  /** The caller's own keeping: within the time of a try, and no longer than the client lives. */
  function asked(renew, signal) {
    return new Promise((resolve, reject) => {
      const ended = new AbortController();
      const settle = (how, value) => {
        ended.abort();
        signal.removeEventListener('abort', closed);
        how(value);
      };
      const closed = () => settle(reject, new CrmError('CLIENT_CLOSED', 'the client was closed'));
      if (signal.aborted) return closed();
      signal.addEventListener('abort', closed, { once: true });
      sleep(timeoutMs, ended.signal).then(() =>
        settle(reject, new CrmError('TIMEOUT', `getAccessToken gave nothing within ${timeoutMs} ms`, { retryable: true })));
      // Whatever it says may quote a token.
      const failed = () => settle(reject, new CrmError('WECHAT_TOKEN', 'getAccessToken failed', { retryable: true }));
      return (async () => getAccessToken({ renew }))().then((token) => settle(resolve, token), failed);
    });
  }

  async function fetchToken(signal, renew) {
    if (getAccessToken) {
      const token = await asked(renew, signal);
      if (typeof token !== 'string' || token === '') throw new CrmError('WECHAT_TOKEN', 'getAccessToken gave no token');
      // Whoever gives it out also knows how long it lives.
      return { token, until: 0 };
    }
    // Not forced: a forced renewal would take the token away from the shop, which has the same mini-program.
    const request = { grant_type: 'client_credential', appid, secret: appSecret, force_refresh: false };
    const answer = await post(agents, new URL(tokenUrl), {}, JSON.stringify(request), timeoutMs, signal);
    const body = parsed(answer.text);
    if (!body) throw notOurs(answer, "WeChat's");
    if (typeof body.access_token !== 'string') throw wechatError(body.errcode, body.errmsg);
    const life = Number(body.expires_in) * 1000 || 0;
    return { token: body.access_token, until: Date.now() + life - Math.min(TOKEN_EARLY_MS, life / 2) };
  }

  /** The token, fetched by one call for all that wait. */
  async function token(signal, renew = false) {
    if (held && Date.now() < held.until) return held.token;
    const kind = renew ? 'renewal' : 'plain';
    fetching[kind] ??= fetchToken(signal, renew).finally(() => {
      fetching[kind] = null;
    });
    held = await fetching[kind];
    return held.token;
  }

  async function invoke(name, text, clock, signal, bearer) {
    const url = new URL(`${wechatBaseUrl}/tcb/invokecloudfunction`);
    url.search = new URLSearchParams({ access_token: bearer, env, name }).toString();
    const event = JSON.stringify(signedEvent({ keyId, secret, name, payload: text, now: clock() }));
    const answer = await post(agents, url, {}, event, timeoutMs, signal);
    const body = parsed(answer.text);
    if (!body) throw notOurs(answer, "WeChat's");
    return { answer, body, errcode: Number(body.errcode) || 0 };
  }

  return {
    async call(name, text, clock, signal) {
      const first = await token(signal);
      let tried = await invoke(name, text, clock, signal, first);
      if (TOKEN_INVALID.has(tried.errcode)) {
        // Unless another call has a new one already.
        if (held && held.token === first) held = null;
        const second = held ? held.token : await token(signal, true);
        if (second !== first) tried = await invoke(name, text, clock, signal, second);
      }
      if (tried.errcode !== 0) throw wechatError(tried.errcode, tried.body.errmsg);
      const body = parsed(tried.body.resp_data);
      if (!body || typeof body.success !== 'boolean') throw notOurs(tried.answer, "the shop's");
      return { status: tried.answer.status, body, date: tried.answer.headers.date };
    },
  };
}

module.exports = { direct, throughWechat };
