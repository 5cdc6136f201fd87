// The purchase loop and the ways it can go wrong, through any client that resolves to the function's result.

import { strict as assert } from 'node:assert';
import { test } from 'node:test';
import { randomUUID } from 'node:crypto';
import { Formatter, Rsa } from 'wechatpay-axios-plugin';
import { asUser, control, orderOf } from './cloud.mjs';
import { pay, pem } from './keys.mjs';

/**
 * @param client the client's name; a user of its own signs in, a new one each time
 * @param call `(function, event) => result`, rejects when the transport fails
 */
export function purchaseLoop(client, call) {
  const name = `${client}-${randomUUID()}`;
  const openId = `o-${name}`;

  test('login, order, pay, points', async () => {
    const { token, user, isNew } = await succeed(call('login', { code: `dev-${name}` }));
    assert.deepEqual([user.openId, user.points, isNew], [openId, 0, true]);

    const { data } = await succeed(call('products', { action: 'list' }));
    const price = data.find((product) => product._id === 'p-apple').price;
    // More characters than ASCII, for they are signed too.
    const event = orderOf('p-apple', 2, { openId, remark: ' 请放门口 – “谢谢” 🍎 ', requestId: randomUUID() });
    const order = await succeed(call('submitOrder', event));
    assert.deepEqual([order.status, order.paymentAmount], ['pendingPayment', price * 2]);
    const again = await succeed(call('submitOrder', event));
    assert.deepEqual([again.orderId, again.replayed], [order.orderId, true]);

    const { payment } = await asUser('wxPay', token, { orderId: order.orderId });
    const signed = Formatter.joinedByLineFeed(pay.appid, payment.timeStamp, payment.nonceStr, payment.package);
    const merchant = Rsa.from(pem('merchant_certificate'), Rsa.KEY_TYPE_PUBLIC);
    assert.ok(Rsa.verify(signed, payment.paySign, merchant), 'paySign');

    assert.equal((await control('pay', { payment, notify: 'duplicate' })).noticeStatus, 204);
    const points = await succeed(call('getUserPoints', { openId }));
    assert.deepEqual([points.points, points.logs.data.length], [Math.floor((price * 2) / 100), 1]);
    assert.equal((await asUser('wxPay', token, { orderId: order.orderId, action: 'query' })).status, 'paid');
  });

  test('a refusal of the function is a result, not an error of the transport', async () => {
    await succeed(call('login', { code: `dev-${name}-2` }));
    const refused = await call('submitOrder', orderOf('p-nothing', 1, { openId: `${openId}-2` }));
    assert.deepEqual([refused.success, refused.code, refused.retryable], [false, 'PRODUCT_NOT_FOUND', false]);
    assert.ok(refused.message && refused.requestId);

    const wrongType = await call('submitOrder', { ...orderOf('p-apple', 1, { openId }), items: 'p-apple' });
    assert.deepEqual([wrongType.success, wrongType.code, wrongType.details.field], [false, 'INVALID_ARGUMENT', 'items']);
    const nobody = await call('getUserPoints', {});
    assert.deepEqual([nobody.success, nobody.code, nobody.details.field], [false, 'INVALID_ARGUMENT', 'openId']);
    // The key pair proves a server, and only users pay.
    const server = await call('wxPay', { orderId: '202601010000000000000000' });
    assert.deepEqual([server.success, server.code], [false, 'FORBIDDEN']);
  });

  test('an input at the limit arrives and one beyond it is refused', async () => {
    const near = await call('products', { action: 'list', padding: '\n'.repeat(45_000) });
    assert.equal(near.success, true);
    const beyond = await call('products', { action: 'list', padding: 'x'.repeat(110_000) });
    assert.deepEqual([beyond.success, beyond.code], [false, 'PAYLOAD_TOO_LARGE']);
  });
}

async function succeed(called) {
  const result = await called;
  assert.equal(result.success, true, JSON.stringify(result));
  assert.ok(!('code' in result), 'clients take a top-level code for an error');
  return result;
}

