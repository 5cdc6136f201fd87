import { strict as assert } from 'node:assert';
import { spawn } from 'node:child_process';
import { createRequire } from 'node:module';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { inspect } from 'node:util';

import crm, { createClient, CrmError, sign } from '../index.mjs';
import { accept, inTurn, KEY_ID, refuse, SECRET, shop } from './shop.mjs';

process.on('unhandledRejection', (reason) => {
  throw new Error(`an unhandled rejection: ${reason}`);
});

const quick = { keyId: KEY_ID, secret: SECRET, retryDelayMs: 1, timeoutMs: 2_000 };
const client = (at, more = {}) => createClient({ baseUrl: at.baseUrl, ...quick, ...more });
const one = { customerId: 'c-1', customerName: '陈女士👩‍👧', assignedToUserId: 's-li' };
const many = (count, more = {}) => Array.from({ length: count }, (_, at) => ({ ...one, customerId: `c-${at}`, ...more }));

test('both module systems have the same client', () => {
  const required = createRequire(import.meta.url)('../index.cjs');
  assert.equal(required.createClient, createClient);
  assert.equal(crm.CrmError, CrmError);
});

test('the signature is the published one', () => {
  const signature = sign('local-crm-secret', '1700000000', '0123456789abcdef', 'POST', '/notifyAssignment', '{}');
  assert.equal(signature, '67eafa67cd6637f84493962df3cba2ec829b8665f0684208e7afbca088d84c4b');
});

test('an assignment is sent, signed, with its time', async (t) => {
  const at = await shop();
  t.after(at.close);
  const given = { ...one };
  const result = await client(at).notifyAssignment(given);
  assert.deepEqual(
    [result.ok, result.sent, result.queued, result.refused, result.failed, result.error, result.attempts],
    [true, 1, 0, 0, 0, null, 1],
  );
  assert.deepEqual(result.results, [{ customerId: 'c-1', status: 'sent', messageId: 'm-0' }]);
  const [seen] = at.seen;
  assert.equal(seen.path, '/notifyAssignment');
  assert.match(seen.input.requestId, /^[\w-]{8,64}$/);
  assert.match(seen.input.assignments[0].assignedAt, /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/);
  assert.deepEqual(given, one, 'what was given stays as it was');
});

test('a time that was given is kept, also as a Date', async (t) => {
  const at = await shop();
  t.after(at.close);
  const when = new Date('2026-01-02T03:04:05.678Z');
  await client(at).notifyAssignment([{ ...one, assignedAt: when }, { ...one, assignedAt: '2026-01-01T00:00:00Z' }]);
  assert.deepEqual(
    at.seen[0].input.assignments.map(({ assignedAt }) => assignedAt),
    ['2026-01-02T03:04:05.678Z', '2026-01-01T00:00:00Z'],
  );
});

test('more than a hundred, and long ones, go in pieces', async (t) => {
  const at = await shop();
  t.after(at.close);
  const result = await client(at).notifyAssignment(many(250));
  assert.deepEqual([result.ok, result.sent, result.results.length], [true, 250, 250]);
  assert.deepEqual(result.results.map(({ customerId }) => customerId), many(250).map(({ customerId }) => customerId));
  assert.deepEqual(at.seen.map(({ input }) => input.assignments.length), [100, 100, 50]);
  assert.equal(new Set(at.seen.map(({ input }) => input.requestId)).size, 3);
  at.seen.length = 0;
  assert.equal((await client(at).notifyAssignment(many(100, { remark: '备注'.repeat(300) }))).ok, true);
  assert.ok(at.seen.length > 1 && at.seen.every(({ text }) => Buffer.byteLength(text) < 100 * 1024), 'each fits');
  assert.equal((await client(at).notifyAssignment([])).ok, true);
});

test('a retry sends the same under a new nonce', async (t) => {
  const at = await shop(inTurn('reset', { status: 502, body: '<html>bad gateway</html>' }, refuse(503, 'UNAVAILABLE', { retryable: true }), accept));
  t.after(at.close);
  const result = await client(at).notifyAssignment([one, { ...one, customerId: 'c-2' }]);
  assert.deepEqual([result.ok, result.sent, result.attempts, at.seen.length], [true, 2, 4, 4]);
  assert.equal(new Set(at.seen.map(({ nonce }) => nonce)).size, 4);
  assert.equal(new Set(at.seen.map(({ text }) => text)).size, 1, 'the same text: requestId and assignedAt are kept');
});

test('a hanging shop is given up, and tried again', async (t) => {
  const at = await shop(inTurn('hang', accept));
  t.after(at.close);
  const result = await client(at, { timeoutMs: 60 }).notifyAssignment(one);
  assert.deepEqual([result.ok, result.attempts], [true, 2]);
  const hung = await shop(() => 'hang');
  t.after(hung.close);
  const given = await client(hung, { timeoutMs: 30, retries: 2 }).notifyAssignment(one);
  assert.deepEqual([given.ok, given.failed, given.error.code, given.attempts], [false, 1, 'TIMEOUT', 3]);
  assert.deepEqual(given.results, [{ customerId: 'c-1', status: 'failed', reason: 'TIMEOUT' }]);
});

test('an answer that stops half-way counts as none', async (t) => {
  const at = await shop(inTurn({ status: 200, headers: { 'content-length': '1000' }, body: '{"success":true' }, accept));
  t.after(at.close);
  assert.equal((await client(at, { timeoutMs: 100 }).notifyAssignment(one)).attempts, 2);
});

test('what cannot get better is not tried again', async (t) => {
  for (const [status, code] of [[400, 'INVALID_ARGUMENT'], [401, 'SIGNATURE_INVALID'], [403, 'FORBIDDEN'], [404, 'FUNCTION_NOT_FOUND'], [409, 'CONFLICT'], [422, 'X']]) {
    const at = await shop(() => refuse(status, code));
    const result = await client(at).notifyAssignment(many(150));
    assert.deepEqual([result.ok, result.error.code, result.error.status, result.error.requestId], [false, code, status, 'trace-1']);
    assert.equal(result.failed, 150);
    assert.equal(at.seen.length, code === 'INVALID_ARGUMENT' ? 2 : 1, `${code}: the next piece is only tried where this one was to blame`);
    at.close();
  }
  const redirecting = await shop(() => ({ status: 302, headers: { location: 'http://127.0.0.1:1/' }, body: '' }));
  t.after(redirecting.close);
  assert.deepEqual((await client(redirecting).messages.list()).error.code, 'BAD_RESPONSE');
  assert.equal(redirecting.seen.length, 1);
});

test('a malformed assignment does not keep the others back', async (t) => {
  const at = await shop((input) => {
    const bad = input.assignments.findIndex(({ customerName }) => customerName === '');
    return bad < 0 ? accept(input) : refuse(400, 'INVALID_ARGUMENT', { details: { field: `assignments[${bad}].customerName` } });
  });
  t.after(at.close);
  const list = many(5);
  list[1].customerName = '';
  list[3].customerName = '';
  const result = await client(at).notifyAssignment(list);
  assert.deepEqual(result.results.map(({ status }) => status), ['sent', 'failed', 'sent', 'failed', 'sent']);
  assert.deepEqual(result.results.map(({ customerId }) => customerId), list.map(({ customerId }) => customerId));
  assert.deepEqual([result.ok, result.sent, result.failed, result.error.code], [false, 3, 2, 'INVALID_ARGUMENT']);
  assert.equal(new Set(at.seen.map(({ input }) => input.requestId)).size, 3, 'other content, other key');
});

test('a shop that asks for patience is waited for, within reason', async (t) => {
  const at = await shop(inTurn({ ...refuse(429, 'RATE_LIMITED', { details: { retryAfterSeconds: 1 } }), headers: { 'retry-after': '0' } }, accept));
  t.after(at.close);
  const started = Date.now();
  assert.equal((await client(at).notifyAssignment(one)).ok, true);
  assert.ok(Date.now() - started >= 1_000);
  const strict = await shop(() => ({ ...refuse(429, 'RATE_LIMITED'), headers: { 'retry-after': '3600' } }));
  t.after(strict.close);
  const result = await client(strict).notifyAssignment(one);
  assert.deepEqual([result.error.code, result.error.retryAfterSeconds, strict.seen.length], ['RATE_LIMITED', 3600, 1]);
});

test('a clock that is wrong is set right once, by what the shop says', async (t) => {
  for (const skewSeconds of [-4_000, 4_000]) {
    const at = await shop(accept, { skewSeconds });
    const own = client(at);
    assert.equal((await own.notifyAssignment(one)).ok, true);
    assert.equal(at.seen.length, 2);
    assert.equal((await own.notifyAssignment(one)).ok, true);
    assert.equal(at.seen.length, 3, 'it is remembered');
    at.close();
  }
  const stubborn = await shop(() => refuse(401, 'SIGNATURE_INVALID', { details: { reason: 'timestamp', serverTime: 1 } }));
  t.after(stubborn.close);
  assert.equal((await client(stubborn).notifyAssignment(one)).error.code, 'SIGNATURE_INVALID');
  assert.equal(stubborn.seen.length, 2, 'once');
});

test('nothing throws: not a refused connection, not an input without JSON, not a closed client', async () => {
  const nobody = createClient({ baseUrl: 'http://127.0.0.1:9', ...quick, retries: 1 });
  assert.equal((await nobody.notifyAssignment(one)).error.code, 'NETWORK');
  const circular = { ...one };
  circular.self = circular;
  for (const input of [circular, null, 'x', [1], { ...one, n: 1n }]) {
    const result = await nobody.notifyAssignment(input);
    assert.deepEqual([result.ok, result.error.code], [false, 'INVALID_ARGUMENT']);
    assert.equal(nobody.notifyAssignmentInBackground(input), 0);
  }
  // Unawaited: an unhandled rejection would end this program.
  nobody.notifyAssignment(one);
  nobody.messages.get('m-1');
  assert.equal((await nobody.close()).ok, true);
  assert.equal((await nobody.staff.upsert({ userId: 's' })).error.code, 'CLIENT_CLOSED');
});

test('who prefers exceptions gets them', async () => {
  const nobody = createClient({ baseUrl: 'http://127.0.0.1:9', ...quick, retries: 0, throwErrors: true });
  await assert.rejects(nobody.notifyAssignment(one), (error) => error instanceof CrmError && error.code === 'NETWORK');
  await assert.rejects(nobody.messages.list(), { code: 'NETWORK' });
});

test('messages and staff are called by their names', async (t) => {
  const at = await shop(inTurn(
    { status: 200, body: { success: true, data: [{ messageId: 'm-1' }], nextCursor: 'n', requestId: 't' } },
    { status: 200, body: { success: true, messageId: 'm-1', status: 'dead', requestId: 't' } },
    { status: 200, body: { success: true, messageId: 'm-1', status: 'queued', requestId: 't' } },
    { status: 200, body: { success: true, userId: 's-li', requestId: 't' } },
  ));
  t.after(at.close);
  const own = client(at);
  const { messages } = own;
  const list = await messages.list({ status: 'dead', limit: 5 });
  assert.deepEqual([list.ok, list.data, list.nextCursor, list.error], [true, [{ messageId: 'm-1' }], 'n', null]);
  assert.equal((await messages.get('m-1')).status, 'dead');
  assert.equal((await messages.redrive('m-1', { mayRepeat: true })).status, 'queued');
  assert.equal((await own.staff.upsert({ userId: 's-li', name: '李导购' })).userId, 's-li');
  assert.deepEqual(at.seen.map(({ name, input }) => [name, input]), [
    ['messages', { status: 'dead', limit: 5, action: 'list' }],
    ['messages', { action: 'get', messageId: 'm-1' }],
    ['messages', { action: 'redrive', messageId: 'm-1', mayRepeat: true }],
    ['staff', { userId: 's-li', name: '李导购', action: 'upsert' }],
  ]);
});

test('the queue gathers, sends in the background, and can be waited for', async (t) => {
  const at = await shop(inTurn('reset', accept));
  t.after(at.close);
  const results = [];
  const own = client(at, { onResult: (result) => results.push(result) });
  for (const assignment of many(130)) assert.equal(own.notifyAssignmentInBackground(assignment), 1);
  assert.equal(own.pending, 130);
  assert.deepEqual(await own.flush(), { ok: true, pending: 0 });
  assert.deepEqual(at.seen.map(({ input }) => input.assignments.length), [100, 100, 30]);
  assert.deepEqual(results.map(({ sent }) => sent), [100, 30]);
});

test('the queue is bounded, and tells what it lost', async (t) => {
  for (const [dropPolicy, lost] of [['newest', ['c-3', 'c-4']], ['oldest', ['c-0', 'c-1']]]) {
    const at = await shop();
    const dropped = [];
    const onError = (error, assignments) => {
      dropped.push([error.code, assignments.map(({ customerId }) => customerId)]);
      throw new Error('a handler of the caller');
    };
    const own = client(at, { queueLimit: 3, dropPolicy, onError });
    assert.equal(own.notifyAssignmentInBackground(many(5)), dropPolicy === 'newest' ? 3 : 5);
    assert.deepEqual(dropped, [['QUEUE_FULL', lost]]);
    assert.equal(own.pending, 3);
    await own.flush();
    assert.equal(at.seen[0].input.assignments.length, 3);
    at.close();
  }
  const hung = await shop(() => 'hang');
  t.after(hung.close);
  const lost = [];
  const own = client(hung, { onError: async (error, list) => { lost.push([error.code, list.length]); throw error; } });
  own.notifyAssignmentInBackground(many(120));
  assert.deepEqual(await own.flush({ timeoutMs: 50 }), { ok: false, pending: 120 });
  assert.deepEqual(await own.close({ timeoutMs: 50 }), { ok: false, pending: 120 });
  assert.deepEqual(lost, [['CLIENT_CLOSED', 20], ['CLIENT_CLOSED', 100]]);
  own.notifyAssignmentInBackground(one);
  assert.deepEqual(lost[2], ['CLIENT_CLOSED', 1]);
});

test('the queue goes on after a failure', async (t) => {
  const at = await shop(inTurn(refuse(403, 'FORBIDDEN'), accept));
  t.after(at.close);
  const lost = [];
  const own = client(at, { onError: (error, list) => lost.push([error.code, list.length]) });
  own.notifyAssignmentInBackground(many(150));
  assert.equal((await own.flush()).ok, true);
  assert.deepEqual(lost, [['FORBIDDEN', 100]]);
  assert.equal(at.seen[1].input.assignments.length, 50);
});

/** Runs a program; gives its exit code, what it printed, and how long it took. */
function run(source, env) {
  const folder = fileURLToPath(new URL('.', import.meta.url));
  const started = Date.now();
  return new Promise((resolve) => {
    const child = spawn(process.execPath, ['--input-type=module', '-e', source], { cwd: folder, env: { ...process.env, KEY: KEY_ID, SECRET, ...env } });
    let out = '';
    child.stdout.on('data', (part) => { out += part; });
    child.stderr.on('data', (part) => { out += part; });
    child.on('close', (code) => resolve({ code, out, ms: Date.now() - started }));
  });
}

test('a program that waits for nothing ends at once, one that waits is not cut off', async (t) => {
  const hung = await shop(() => 'hang');
  t.after(hung.close);
  const start = `import { createClient } from '../index.mjs';
    const client = createClient({ baseUrl: process.env.SHOP, keyId: process.env.KEY, secret: process.env.SECRET, timeoutMs: Number(process.env.MS), retries: 1 });
    const one = { customerId: 'c' };`;
  const waitless = { SHOP: hung.baseUrl, MS: '60000' };
  for (const call of ['client.notifyAssignment(one);', 'client.notifyAssignmentInBackground(one);', 'client.messages.list(); client.flush();']) {
    const ended = await run(`${start} ${call} setTimeout(() => console.log('end'), 200);`, waitless);
    assert.deepEqual([ended.code, ended.out], [0, 'end\n'], call);
    assert.ok(ended.ms < 10_000, `${call} held the process for ${ended.ms} ms`);
  }
  const waiting = await run(`${start} console.log((await client.notifyAssignment(one)).error.code);`, { SHOP: hung.baseUrl, MS: '100' });
  assert.deepEqual([waiting.code, waiting.out], [0, 'TIMEOUT\n']);
  const closing = await run(`${start} client.notifyAssignmentInBackground(one); console.log((await client.close({ timeoutMs: 100 })).ok);`, waitless);
  assert.match(closing.out, /false\n/);
  assert.match(closing.out, /JinluCrmWarning/);
  assert.equal(closing.code, 0);
});

test('secrets are nowhere to be seen', async (t) => {
  const at = await shop(() => refuse(403, 'FORBIDDEN'));
  t.after(at.close);
  const hidden = [SECRET, 'the-app-secret', 'T-1'];
  const wechat = createClient({ env: 'e', appid: 'wx1', appSecret: hidden[1], wechatBaseUrl: 'http://127.0.0.1:9', ...quick, retries: 0 });
  const own = client(at);
  const shown = [own, wechat, await own.notifyAssignment(one), await wechat.notifyAssignment(one), await wechat.staff.get('s')];
  for (const value of shown) {
    const text = `${inspect(value, { depth: 9, showHidden: true })} ${JSON.stringify(value)} ${String(value)} ${value.error?.stack}`;
    for (const secret of hidden) assert.ok(!text.includes(secret), text);
    assert.ok(!text.includes('x-jinlu-signature'));
  }
  assert.match(inspect(own), /^CrmClient [^]*crm-test/);
});

test('wrong options are refused when the client is made', () => {
  const good = { baseUrl: 'https://shop.example', keyId: 'k', secret: 's' };
  for (const options of [
    undefined, {}, { ...good, baseUrl: 'shop.example' }, { ...good, baseUrl: 'ftp://shop.example' }, { ...good, keyId: '' },
    { ...good, secret: undefined }, { ...good, secret: 7 }, { ...good, timeoutMs: 0 }, { ...good, retries: -1 }, { ...good, retries: NaN },
    { ...good, dropPolicy: 'x' }, { ...good, onError: 'x' }, { ...good, env: 'e' }, { env: 'e', keyId: 'k', secret: 's' },
    { ...good, baseUrl: 'https://user:pass@shop.example' },
  ]) {
    assert.throws(() => createClient(options), TypeError);
  }
  assert.ok(createClient({ ...good, baseUrl: 'https://shop.example/' }));
});
