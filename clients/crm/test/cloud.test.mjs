// Against a local cloud, at JINLU_URL: the real shop, with WeChat simulated.

import { strict as assert } from 'node:assert';
import { readFileSync } from 'node:fs';
import { test } from 'node:test';

import { createClient } from '../index.mjs';

const url = process.env.JINLU_URL?.replace(/\/$/, '');
const skip = url ? false : 'JINLU_URL names no local cloud';
const key = { keyId: 'local-crm', secret: 'local-crm-secret' };
const wechat = {
  ...key,
  env: 'jinlu-local',
  appid: 'wxlocal0000000001',
  appSecret: 'local-wechat-secret',
  wechatBaseUrl: url,
  tokenUrl: `${url}/sim/wechat/cgi-bin/stable_token`,
};
const direct = { ...key, baseUrl: url };
const ways = [['http', direct], ['wechat', wechat]];

const named = (name) => `crm-${process.pid}-${name}`;
const one = (name, more = {}) => ({ customerId: named(name), customerName: '陈女士👩‍👧', customerPhone: '13800138000', assignedToUserId: 's-li', ...more });

async function post(path, body) {
  const reply = await fetch(`${url}${path}`, { method: 'POST', body: JSON.stringify(body) });
  return reply.json();
}

const declared = readFileSync(new URL('../index.d.cts', import.meta.url), 'utf8');

/** Every field is declared, and every declared one that is not optional is there. */
function fits(value, name) {
  const body = new RegExp(`interface ${name} \\{\\n([^]*?)\\n\\}`).exec(declared)[1];
  const fields = [...body.matchAll(/^ {2}(\w+)(\??):/gm)].map(([, field, mark]) => [field, mark === '?']);
  const known = new Set(fields.map(([field]) => field));
  const { ok, error, requestId, calls, replayed, ...own } = value;
  assert.deepEqual(Object.keys(own).filter((field) => !known.has(field)), [], `${name}: not declared`);
  const missing = fields.filter(([field, optional]) => !optional && !(field in value)).map(([field]) => field);
  assert.deepEqual(missing, [], `${name}: declared, but not there`);
}

/** The messages that arrived at the assignee for this customer. */
async function arrived(openId) {
  const reply = await fetch(`${url}/sim/control/messages?openId=${openId}`);
  return (await reply.json()).messages.length;
}

for (const [way, options] of ways) {
  test(`${way}: any function answers a signed call, and nobody else’s`, { skip }, async () => {
    const client = createClient(options);
    const before = await client.call('getUserPoints', { openId: 'o-demo' });
    assert.ok(before.ok, before.error?.message);
    const after = await client.call('addPoints', { openId: 'o-demo', points: 5, type: 'earn', reason: '测试' });
    assert.equal(after.points, before.points + 5);
    const forger = createClient({ ...options, secret: 'guessed' });
    const refused = await forger.call('addPoints', { openId: 'o-demo', points: 5, type: 'earn', reason: '测试' });
    assert.deepEqual([refused.ok, refused.error.code, refused.error.details.reason], [false, 'SIGNATURE_INVALID', 'signature']);
    const unknown = await client.call('noSuchFunction');
    assert.match(unknown.error.code, /FUNCTION_NOT_FOUND$/);
  });

  test(`${way}: an assignment arrives once, however often it is told`, { skip }, async () => {
    const client = createClient(options);
    // What earlier tests left.
    await post('/sim/control/timers', { name: 'deliverOutbox' });
    const before = await arrived('o-staff');
    const assignment = one(`${way}-once`, { assignedAt: new Date() });
    const first = await client.notifyAssignment(assignment);
    assert.ok(first.ok && first.sent + first.queued === 1, JSON.stringify(first));
    const again = await client.notifyAssignment(assignment);
    assert.deepEqual(again.results.map(({ messageId }) => messageId), first.results.map(({ messageId }) => messageId));
    await post('/sim/control/timers', { name: 'deliverOutbox' });
    assert.equal(await arrived('o-staff'), before + 1);
    const { messageId } = first.results[0];
    const receipt = await client.messages.get(messageId);
    assert.deepEqual([receipt.ok, receipt.messageId, receipt.status, receipt.kind], [true, messageId, 'sent', 'message']);
    assert.ok(receipt.attempts === 1 && receipt.calls >= 1);
    assert.ok(receipt.customerIds.includes(assignment.customerId) && receipt.tries.length === 1);
    const list = await client.messages.list({ limit: 100, customerId: assignment.customerId });
    list.data.forEach((message) => fits(message, 'Receipt'));
    fits(receipt, 'Receipt');
    fits(receipt.tries[0], 'Try');
    fits(first.results[0], 'AssignmentResult');
    assert.deepEqual(list.data.map((message) => message.messageId), [messageId]);
  });

  test(`${way}: who cannot be told is refused, and said why`, { skip }, async () => {
    const client = createClient(options);
    const given = [one(`${way}-ok`), one(`${way}-nobody`, { assignedToUserId: 's-nobody' }), one(`${way}-zhang`, { assignedToUserId: 's-zhang' })];
    const result = await client.notifyAssignment(given);
    assert.deepEqual([result.ok, result.refused, result.failed], [true, 2, 0], JSON.stringify(result));
    assert.deepEqual(result.results.map(({ customerId }) => customerId), given.map(({ customerId }) => customerId));
    assert.ok(result.results.slice(1).every(({ status, reason }) => status === 'refused' && /^[A-Z_]+$/.test(reason)), JSON.stringify(result));
    const missing = await client.messages.get('no-such-message');
    assert.deepEqual([missing.ok, missing.error.code], [false, 'NOT_FOUND']);
  });

  test(`${way}: staff are kept`, { skip }, async () => {
    const client = createClient(options);
    const userId = named(`staff-${way}`);
    const made = await client.staff.upsert({ userId, name: '王导购' });
    assert.ok(made.ok, made.error?.message);
    const found = await client.staff.get(userId);
    assert.deepEqual([found.ok, found.userId, found.name, found.active], [true, userId, '王导购', true]);
    fits(found, 'StaffMember');
    assert.ok((await client.staff.list({ limit: 100 })).data.some((member) => member.userId === 's-li'));
  });

  test(`${way}: two hundred and fifty in the background`, { skip }, async () => {
    const results = [];
    const client = createClient({ ...options, onResult: (result) => results.push(result), onError: (error) => assert.fail(error.code) });
    const given = Array.from({ length: 250 }, (_, at) => one(`${way}-${at}`, { assignedAt: new Date(), remark: '备注'.repeat(20) }));
    for (const assignment of given) client.notifyAssignmentInBackground(assignment);
    assert.deepEqual(await client.close({ timeoutMs: 60_000 }), { ok: true, pending: 0 });
    assert.equal(results.flatMap((result) => result.results).length, 250);
    assert.ok(results.every(({ failed }) => failed === 0));
  });
}

test('WeChat that is busy giving out tokens is asked again', { skip }, async () => {
  const client = createClient(wechat);
  assert.ok((await client.call('getUserPoints', { openId: 'o-demo' })).ok);
  await post('/sim/control/faults', { target: 'wechat', path: '/cgi-bin/stable_token', mode: 'errcode', errcode: -1, count: 1 });
  const other = createClient({ ...wechat, retryDelayMs: 1 });
  const answer = await other.call('getUserPoints', { openId: 'o-demo' });
  assert.deepEqual([answer.ok, answer.calls], [true, 2]);
});
