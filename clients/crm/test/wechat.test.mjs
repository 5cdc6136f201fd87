import { strict as assert } from 'node:assert';
import { test } from 'node:test';

import { createClient } from '../index.mjs';
import { accept, inTurn, KEY_ID, refuse, SECRET, shop } from './shop.mjs';

const one = { customerId: 'c-1', customerName: '陈女士', assignedToUserId: 's-li' };
const wrapped = (answer) => ({ status: 200, body: { errcode: 0, errmsg: 'ok', resp_data: JSON.stringify(answer.body) } });
const errcode = (code) => ({ status: 200, body: { errcode: code, errmsg: `no rid: 5f-${Math.abs(code)}` } });

/** WeChat with the shop behind it: tokens T-1, T-2 …, and `answer` for the calls. */
async function wechat(answer, more = {}) {
  let tokens = 0;
  const at = await shop((input, request, n) => {
    if (request.path !== '/cgi-bin/stable_token') return answer(input, request, n);
    tokens += 1;
    return { status: 200, body: { access_token: `T-${tokens}`, expires_in: more.expiresIn ?? 7200 } };
  }, more);
  const options = { env: 'shop-1', appid: 'wx1', appSecret: 'the-app-secret', wechatBaseUrl: at.baseUrl, keyId: KEY_ID, secret: SECRET, retryDelayMs: 1 };
  const calls = () => at.seen.filter(({ path }) => path === '/tcb/invokecloudfunction');
  return { ...at, calls, tokens: () => tokens, client: (own = {}) => createClient({ ...options, ...own }) };
}

test('calls go through WeChat with one token and the signature inside', async (t) => {
  const at = await wechat((input) => wrapped(accept(input)));
  t.after(at.close);
  const client = at.client();
  const results = await Promise.all(Array.from({ length: 20 }, () => client.notifyAssignment(one)));
  assert.ok(results.every((result) => result.ok && result.sent === 1 && result.results[0].messageId === 'm-0'));
  assert.equal(at.tokens(), 1, 'one fetch for all');
  assert.deepEqual(at.seen[0].input, { grant_type: 'client_credential', appid: 'wx1', secret: 'the-app-secret', force_refresh: false });
  assert.deepEqual(at.calls()[0].query, { access_token: 'T-1', env: 'shop-1', name: 'notifyAssignment' });
  assert.deepEqual(Object.keys(JSON.parse(at.calls()[0].text)), ['key', 'timestamp', 'nonce', 'payload', 'signature']);
});

test('a token that WeChat refuses is fetched anew, once', async (t) => {
  for (const code of [40001, 40014, 42001]) {
    const at = await wechat((input, { query }) => (query.access_token === 'T-1' ? errcode(code) : wrapped(accept(input))));
    const client = at.client();
    const results = await Promise.all([client.notifyAssignment(one), client.notifyAssignment(one), client.notifyAssignment(one)]);
    assert.ok(results.every(({ ok, calls }) => ok && calls === 1));
    assert.equal(at.tokens(), 2, `${code}`);
    at.close();
  }
  const never = await wechat(() => errcode(40001));
  t.after(never.close);
  const result = await never.client().notifyAssignment(one);
  assert.deepEqual([result.error.code, result.error.errcode, never.calls().length, never.tokens()], ['WECHAT_TOKEN', 40001, 2, 2]);
  assert.match(result.error.message, /rid 5f-40001/);
});

test('an old token is renewed before it ends', async (t) => {
  const at = await wechat((input) => wrapped(accept(input)), { expiresIn: 0 });
  t.after(at.close);
  const client = at.client();
  await client.notifyAssignment(one);
  await client.notifyAssignment(one);
  assert.equal(at.tokens(), 2);
});

test('a token of the caller’s own keeping is asked for', async (t) => {
  const at = await wechat((input) => wrapped(accept(input)));
  t.after(at.close);
  let asked = 0;
  const given = [];
  const getAccessToken = async (about) => {
    given.push(about);
    return `own-${(asked += 1)}`;
  };
  const client = at.client({ getAccessToken, appid: undefined, appSecret: undefined });
  assert.equal((await client.notifyAssignment(one)).ok, true);
  assert.deepEqual([at.tokens(), at.calls()[0].query.access_token], [0, 'own-1']);
  const failing = at.client({ getAccessToken: async () => { throw new Error('secret words'); }, retries: 0 });
  const result = await failing.notifyAssignment(one);
  assert.ok(!result.ok && !result.error.message.includes('secret words'));
  assert.deepEqual([result.error.code, result.error.retryable], ['WECHAT_TOKEN', true]);
  assert.deepEqual(given, [{ renew: false }]);
});

test('a token of the caller’s own keeping is renewed when WeChat refuses it', async (t) => {
  const at = await wechat((input, { query }) => (query.access_token === 'good' ? wrapped(accept(input)) : errcode(40001)));
  t.after(at.close);
  let token = 'bad';
  let renewals = 0;
  const getAccessToken = async ({ renew }) => {
    if (renew) {
      renewals += 1;
      token = 'good';
    }
    return token;
  };
  const client = at.client({ getAccessToken, appid: undefined, appSecret: undefined });
  const results = await Promise.all(Array.from({ length: 5 }, () => client.notifyAssignment(one)));
  assert.ok(results.every(({ ok, calls }) => ok && calls === 1), JSON.stringify(results));
  assert.equal(renewals, 1, 'one renewal for all');
});

test('a token that does not come holds up neither a call nor the end', async (t) => {
  const at = await wechat((input) => wrapped(accept(input)));
  t.after(at.close);
  let asked = 0;
  const getAccessToken = () => {
    asked += 1;
    if (asked === 1) throw new Error('not yet');
    return asked === 2 ? new Promise(() => {}) : 'own';
  };
  const own = { getAccessToken, appid: undefined, appSecret: undefined };
  const result = await at.client({ ...own, timeoutMs: 1_500 }).notifyAssignment(one);
  assert.deepEqual([result.ok, result.calls], [true, 3], 'both are tried again');
  const never = at.client({ ...own, getAccessToken: () => new Promise(() => {}), timeoutMs: 60_000, onError: () => {} });
  never.notifyAssignmentInBackground(one);
  const started = Date.now();
  assert.deepEqual(await never.close({ timeoutMs: 50 }), { ok: false, pending: 1 });
  assert.ok(Date.now() - started < 30_000);
  assert.equal(never.pending, 0);
});

test('what WeChat says is understood', async (t) => {
  for (const [code, name, calls] of [
    [-1, 'WECHAT_BUSY', 2], [-501002, 'WECHAT_FUNCTION_TIMEOUT', 2], [45011, 'WECHAT_TOO_OFTEN', 1], [45009, 'WECHAT_QUOTA', 1],
    [-501000, 'WECHAT_FUNCTION_NOT_FOUND', 1], [-501005, 'WECHAT_ENV_NOT_FOUND', 1], [48001, 'WECHAT_NOT_ALLOWED', 1], [12345, 'WECHAT_ERROR', 1],
  ]) {
    const at = await wechat(() => errcode(code));
    const result = await at.client({ retries: 1 }).notifyAssignment(one);
    assert.deepEqual([result.error.code, result.error.errcode, at.calls().length], [name, code, calls]);
    at.close();
  }
  const refusing = await shop((input, { path }) => (path === '/cgi-bin/stable_token' ? errcode(40125) : wrapped(accept(input))));
  t.after(refusing.close);
  const options = { env: 'e', appid: 'a', appSecret: 'b', wechatBaseUrl: refusing.baseUrl, keyId: KEY_ID, secret: SECRET };
  assert.equal((await createClient(options).notifyAssignment(one)).error.code, 'WECHAT_CREDENTIALS');
});

test('the shop’s refusals inside WeChat’s answer are the shop’s', async (t) => {
  const at = await wechat(inTurn(wrapped(refuse(503, 'UNAVAILABLE', { retryable: true })), wrapped(refuse(500, 'INTERNAL')), wrapped(refuse(403, 'FORBIDDEN'))));
  t.after(at.close);
  const result = await at.client().notifyAssignment(one);
  assert.deepEqual([result.error.code, result.calls], ['FORBIDDEN', 3]);
  assert.equal(new Set(at.calls().map(({ nonce }) => nonce)).size, 3);
  const odd = await wechat(() => ({ status: 200, body: { errcode: 0, errmsg: 'ok', resp_data: 'null' } }));
  t.after(odd.close);
  assert.equal((await odd.client().notifyAssignment(one)).error.code, 'BAD_RESPONSE');
});

test('the clock is set right on this way, too', async (t) => {
  const told = { details: { reason: 'timestamp', serverTime: Math.floor(Date.now() / 1000) + 5_000 } };
  const at = await wechat(inTurn(wrapped(refuse(401, 'SIGNATURE_INVALID', told)), (input) => wrapped(accept(input))), { skewSeconds: 0 });
  t.after(at.close);
  // The stand-in's own clock is right, so the second try is refused by it – after it was signed for the told time.
  await at.client().notifyAssignment(one);
  const [first, second] = at.calls().map(({ timestamp }) => Number(timestamp));
  assert.ok(second - first >= 4_990);
});
