import { strict as assert } from 'node:assert';
import { spawn } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { inspect } from 'node:util';

import crm, { createClient, CrmError, sign, signedEvent, signedHeaders } from '../index.mjs';
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
  const text = readFileSync(new URL('../../../docs/SIGNING.md', import.meta.url), 'utf8');
  const vector = text.slice(text.indexOf('## Test vector'), text.indexOf('## When it is refused'));
  const part = (pattern) => pattern.exec(vector)[1];
  const secret = part(/Secret `([^`]+)`/);
  const timestamp = part(/timestamp `(\d+)`/);
  const nonce = part(/nonce `([^`]+)`/);
  const path = part(/path `([^`]+)`/);
  const body = part(/```json\n([^\n]+)\n```/);
  assert.equal(sign(secret, timestamp, nonce, 'POST', path, body), part(/signature, `POST` \| `(\w{64})`/));
  const now = Number(timestamp) * 1000;
  const event = signedEvent({ keyId: 'k', secret, name: path.slice(1), payload: body, now, nonce });
  assert.deepEqual(event, { key: 'k', timestamp, nonce, payload: body, signature: part(/signature, `EVENT` \| `(\w{64})`/) });
  const headers = signedHeaders({ keyId: 'k', secret, path, body, now, nonce });
  assert.equal(headers['x-jinlu-signature'], part(/signature, `POST` \| `(\w{64})`/));
});

test('the types declare what there is', () => {
  const declared = ['cts', 'mts'].map((kind) => readFileSync(new URL(`../index.d.${kind}`, import.meta.url), 'utf8'));
  for (const name of Object.keys(crm)) {
    assert.match(declared[0], new RegExp(`export (function|class) ${name}\\b`));
    assert.match(declared[1], new RegExp(`readonly ${name}: typeof ${name};`));
  }
});

test('an assignment is sent, signed, with its time', async (t) => {
  const at = await shop();
  t.after(at.close);
  const given = { ...one };
  const result = await client(at).notifyAssignment(given);
  assert.deepEqual(
    [result.ok, result.sent, result.queued, result.refused, result.failed, result.error, result.calls],
    [true, 1, 0, 0, 0, null, 1],
  );
  const [seen] = at.seen;
  const { assignedAt } = seen.input.assignments[0];
  assert.deepEqual(result.results, [{ customerId: 'c-1', status: 'sent', messageId: 'm-0', assignedAt }]);
  assert.equal(seen.path, '/notifyAssignment');
  assert.match(seen.input.requestId, /^[\w-]{8,64}$/);
  assert.match(assignedAt, /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/);
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

test('whoever repeats a call names the same assignments', async (t) => {
  const at = await shop(inTurn(refuse(403, 'FORBIDDEN'), accept));
  t.after(at.close);
  const own = client(at);
  const failed = await own.notifyAssignment(one);
  const [{ status, assignedAt }] = failed.results;
  assert.equal(status, 'failed');
  await own.notifyAssignment({ ...one, assignedAt });
  const told = at.seen.map(({ input }) => input.assignments[0].assignedAt);
  assert.deepEqual(told, [assignedAt, assignedAt]);
  // A key of the caller's own: the shop knows the repeat by its text.
  for (let n = 0; n < 2; n += 1) {
    await own.notifyAssignment(one, { requestId: 'my-own-key' });
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
  assert.equal(at.seen[2].text, at.seen[3].text);
  assert.equal(at.seen[2].input.requestId, 'my-own-key');
});

test('the keys of pieces are valid, differ, and come again', async (t) => {
  const at = await shop();
  t.after(at.close);
  const own = client(at);
  const long = 'k'.repeat(63);
  for (const requestId of [`${long}a`, `${long}b`, `${long}a`, 'short-key']) await own.notifyAssignment(many(250), { requestId });
  const keys = at.seen.map(({ input }) => input.requestId);
  assert.ok(keys.every((key) => /^[\w-]{8,64}$/.test(key)), `${keys}`);
  assert.equal(new Set(keys).size, 9);
  assert.deepEqual(keys.slice(6, 9), keys.slice(0, 3));
  assert.deepEqual(keys.slice(9), ['short-key-0', 'short-key-1', 'short-key-2']);
});

test('a date that is none is refused, not left out', async (t) => {
  const at = await shop();
  t.after(at.close);
  const result = await client(at).notifyAssignment([one, { ...one, assignedAt: new Date(NaN) }]);
  assert.deepEqual([result.ok, result.error.code, result.error.details.field], [false, 'INVALID_ARGUMENT', 'assignments[1].assignedAt']);
  assert.equal(at.seen.length, 0);
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
  assert.deepEqual([result.ok, result.sent, result.calls, at.seen.length], [true, 2, 4, 4]);
  assert.equal(new Set(at.seen.map(({ nonce }) => nonce)).size, 4);
  assert.equal(new Set(at.seen.map(({ text }) => text)).size, 1, 'the same text: requestId and assignedAt are kept');
});

test('a hanging shop is given up, and tried again', async (t) => {
  const at = await shop(inTurn('hang', accept));
  t.after(at.close);
  const result = await client(at, { timeoutMs: 1_500 }).notifyAssignment(one);
  assert.deepEqual([result.ok, result.calls], [true, 2]);
  const hung = await shop(() => 'hang');
  t.after(hung.close);
  const given = await client(hung, { timeoutMs: 30, retries: 2 }).notifyAssignment(one);
  assert.deepEqual([given.ok, given.failed, given.error.code, given.calls], [false, 1, 'TIMEOUT', 3]);
  const { assignedAt } = hung.seen[0].input.assignments[0];
  assert.deepEqual(given.results, [{ customerId: 'c-1', status: 'failed', reason: 'TIMEOUT', assignedAt }]);
});

test('an answer that stops half-way counts as none', async (t) => {
  const at = await shop(inTurn({ status: 200, headers: { 'content-length': '1000' }, body: '{"success":true' }, accept));
  t.after(at.close);
  assert.equal((await client(at, { timeoutMs: 1_500 }).notifyAssignment(one)).calls, 2);
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
  at.seen.length = 0;
  const hopeless = await client(at).notifyAssignment(many(100, { customerName: '' }));
  assert.deepEqual([hopeless.failed, hopeless.error.code, at.seen.length], [100, 'INVALID_ARGUMENT', 5], 'not a request for each');
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
    const young = client(at);
    for (const { ok, error } of await Promise.all(many(5).map((assignment) => young.notifyAssignment(assignment)))) assert.ok(ok, error?.code);
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
  const unready = { get requestId() { throw new Error('a getter of the caller'); } };
  for (const options of [null, undefined, 7, {}]) {
    for (const call of [
      () => nobody.notifyAssignment(one, options), () => nobody.messages.list(options), () => nobody.messages.redrive('m', options),
      () => nobody.staff.upsert(options), () => nobody.staff.list(options), () => nobody.call('x', options), () => nobody.call('x', unready),
    ]) assert.equal((await call()).ok, false);
    assert.equal((await nobody.flush(options)).ok, true);
  }
  assert.equal((await nobody.flush({ timeoutMs: Infinity })).ok, true);
  const closed = createClient({ baseUrl: 'http://127.0.0.1:9', ...quick, onError: null, signedPath: null });
  assert.equal((await closed.close(null)).ok, true);
  // Unawaited: an unhandled rejection would end this program.
  nobody.notifyAssignment(one);
  nobody.messages.get('m-1');
  assert.equal((await nobody.close()).ok, true);
  assert.equal((await nobody.staff.upsert({ userId: 's' })).error.code, 'CLIENT_CLOSED');
});

test('many calls are no leak, neither at once nor one after the other', async (t) => {
  const warnings = [];
  const note = (warning) => warnings.push(warning.name);
  process.on('warning', note);
  t.after(() => process.off('warning', note));
  const at = await shop();
  t.after(at.close);
  const own = client(at);
  const results = await Promise.all(many(60).map((assignment) => own.notifyAssignment(assignment)));
  assert.ok(results.every(({ ok }) => ok));
  const other = client(at);
  for (let n = 0; n < 20; n += 1) assert.equal((await other.notifyAssignment(one)).ok, true);
  const ports = at.seen.slice(-20).map(({ port }) => port);
  assert.equal(new Set(ports).size, 1, 'one connection for all of them');
  await new Promise(setImmediate);
  assert.ok(!warnings.includes('MaxListenersExceededWarning'), `${warnings}`);
});

test('who prefers exceptions gets them', async (t) => {
  const nobody = createClient({ baseUrl: 'http://127.0.0.1:9', ...quick, retries: 0, throwErrors: true });
  await assert.rejects(nobody.notifyAssignment(one), (error) => error instanceof CrmError && error.code === 'NETWORK');
  await assert.rejects(nobody.messages.list(), { code: 'NETWORK' });
  const at = await shop(inTurn(accept, refuse(403, 'FORBIDDEN')));
  t.after(at.close);
  const error = await client(at, { throwErrors: true }).notifyAssignment(many(150)).catch((thrown) => thrown);
  assert.equal(error.code, 'FORBIDDEN');
  assert.deepEqual(error.results.map(({ status }) => status), [...Array(100).fill('sent'), ...Array(50).fill('failed')]);
  assert.ok(!`${inspect(error)} ${JSON.stringify(error)}`.includes('c-1'), 'not in logs');
});

test('messages and staff are called by their names', async (t) => {
  const at = await shop(inTurn(
    { status: 200, body: { success: true, data: [{ messageId: 'm-1' }], nextCursor: 'n', requestId: 't' } },
    { status: 200, body: { success: true, messageId: 'm-1', status: 'dead', attempts: 30, requestId: 't' } },
    { status: 200, body: { success: true, messageId: 'm-1', status: 'queued', requestId: 't' } },
    { status: 200, body: { success: true, userId: 's-li', requestId: 't' } },
  ));
  t.after(at.close);
  const own = client(at);
  const { messages } = own;
  const list = await messages.list({ status: 'dead', limit: 5 });
  assert.deepEqual([list.ok, list.data, list.nextCursor, list.error], [true, [{ messageId: 'm-1' }], 'n', null]);
  const receipt = await messages.get('m-1');
  assert.deepEqual([receipt.status, receipt.attempts, receipt.calls], ['dead', 30, 1], 'the receipt keeps what it says of the message');
  assert.equal((await messages.redrive('m-1', { mayRepeat: true })).status, 'queued');
  assert.equal((await own.staff.upsert({ userId: 's-li', name: '李导购' })).userId, 's-li');
  assert.deepEqual(at.seen.map(({ name, input }) => [name, input]), [
    ['messages', { status: 'dead', limit: 5, action: 'list' }],
    ['messages', { action: 'get', messageId: 'm-1' }],
    ['messages', { action: 'redrive', messageId: 'm-1', mayRepeat: true, requestId: at.seen[2].input.requestId }],
    ['staff', { userId: 's-li', name: '李导购', action: 'upsert' }],
  ]);
  assert.match(at.seen[2].input.requestId, /^[\w-]{8,64}$/, 'a retry of it is known for one');
});

test('any function can be called, and a retry of it is known for one', async (t) => {
  const at = await shop(inTurn('reset', { status: 200, body: { success: true, points: 5, requestId: 't' } }));
  t.after(at.close);
  const answer = await client(at).call('addPoints', { points: 5 });
  assert.deepEqual([answer.ok, answer.points, answer.calls], [true, 5, 2]);
  assert.equal(at.seen[0].path, '/addPoints');
  assert.match(at.seen[0].input.requestId, /^[\w-]{8,64}$/);
  assert.equal(at.seen[0].text, at.seen[1].text);
  await client(at).call('addPoints', { requestId: 'my-own-key' });
  assert.equal(at.seen[2].input.requestId, 'my-own-key');
  await client(at).call('addPoints', { requestId: undefined });
  assert.match(at.seen[3].input.requestId, /^[\w-]{8,64}$/);
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

test('a long queue costs no more per addition than a short one', async (t) => {
  const hung = await shop(() => 'hang');
  t.after(hung.close);
  for (const dropPolicy of ['newest', 'oldest']) {
    const own = client(hung, { queueLimit: 20_000, dropPolicy, onError: () => {} });
    // Against the quickest of a few, so that what else the machine does does not count.
    const add = () => {
      const runs = Array.from({ length: 5 }, () => {
        const started = process.cpuUsage();
        for (let n = 0; n < 200; n += 1) own.notifyAssignmentInBackground(one);
        const { user, system } = process.cpuUsage(started);
        return user + system;
      });
      return Math.min(...runs);
    };
    add();
    const short = add();
    own.notifyAssignmentInBackground(many(19_000));
    const long = add();
    assert.equal(own.pending, 20_000);
    assert.ok(long < short * 10 + 2_000, `${dropPolicy}: ${short} µs, then ${long} µs`);
    await own.close({ timeoutMs: 0 });
  }
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

test('a server that closes as the examples do sends what is left', async (t) => {
  const at = await shop(inTurn('reset', accept));
  t.after(at.close);
  const [, handler] = /process\.on\('SIGTERM', (.*)\);\n/.exec(readFileSync(new URL('../README.md', import.meta.url), 'utf8'));
  const ended = await run(`import { createServer } from 'node:http';
    import { createClient } from '../index.mjs';
    const crm = createClient({ baseUrl: process.env.SHOP, keyId: process.env.KEY, secret: process.env.SECRET });
    crm.notifyAssignmentInBackground({ customerId: 'c' });
    const server = createServer().listen(0, '127.0.0.1', ${handler});`, { SHOP: at.baseUrl });
  assert.deepEqual([ended.code, ended.out, at.seen.length], [0, '', 2]);
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
