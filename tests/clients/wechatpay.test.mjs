// wechatpay-axios-plugin against both sides of WeChat Pay: as a strict client of the simulator, and as the maker of notices.

import { strict as assert } from 'node:assert';
import { test } from 'node:test';
import { randomUUID } from 'node:crypto';
import { Aes, Formatter, Rsa, Wechatpay } from 'wechatpay-axios-plugin';
import { CLOUD, asUser, control, orderOf, post } from './cloud.mjs';
import { pay, pem } from './keys.mjs';

const certs = { [pay.publicKeyId]: pem('wechatpay_public'), [pay.platformSerial]: pem('platform_certificate') };

/** A client that believes only answers signed by the keys of `trusted`. */
function client({ serial = pay.publicKeyId, trusted = certs, merchantKey = 'merchant_private' } = {}) {
  return new Wechatpay({
    mchid: pay.mchid,
    serial: pay.merchantSerial,
    privateKey: pem(merchantKey),
    certs: { ...trusted },
    baseURL: `${CLOUD}/sim/wxpay/`,
    headers: { 'Wechatpay-Serial': serial },
    proxy: false,
  });
}

const number = () => randomUUID().replaceAll('-', '');
const prepayRequest = (out_trade_no, total = 1234) => ({
  appid: pay.appid,
  mchid: pay.mchid,
  description: '苹果 × 2',
  out_trade_no,
  notify_url: `${CLOUD}/payCallback`,
  amount: { total, currency: 'CNY' },
  payer: { openid: 'o-plugin' },
});

const refusedWith = (status, code) => (error) => {
  assert.deepEqual([error.response?.status, error.response?.data?.code], [status, code], error);
  return true;
};

for (const serial of [pay.publicKeyId, pay.platformSerial]) {
  const mode = serial === pay.publicKeyId ? 'public key' : 'certificate';
  test(`the simulator is accepted by a strict client (${mode})`, async () => {
    // Only one key is trusted, so that an answer signed with the other fails.
    const wxpay = client({ serial, trusted: { [serial]: certs[serial] } });
    const id = number();
    const jsapi = (body) => wxpay.chain('v3/pay/transactions/jsapi').post(body);
    const query = () => wxpay.chain(`v3/pay/transactions/out-trade-no/${id}`).get({ params: { mchid: pay.mchid } });
    await assert.rejects(query(), refusedWith(404, 'ORDER_NOT_EXIST'));
    const first = await jsapi(prepayRequest(id));
    assert.equal(first.headers['wechatpay-serial'], serial);
    assert.match(first.data.prepay_id, /^wx/);
    assert.match((await jsapi(prepayRequest(id))).data.prepay_id, /^wx/);
    await assert.rejects(jsapi(prepayRequest(id, 1)), refusedWith(403, 'OUT_TRADE_NO_USED'));
    const { data } = await query();
    assert.deepEqual([data.trade_state, data.out_trade_no, data.amount.total], ['NOTPAY', id, 1234]);

    const close = () => wxpay.chain(`v3/pay/transactions/out-trade-no/${id}/close`).post({ mchid: pay.mchid });
    assert.equal((await close()).status, 204);
    assert.equal((await close()).status, 204);
    assert.equal((await query()).data.trade_state, 'CLOSED');
    await assert.rejects(jsapi(prepayRequest(id)), refusedWith(400, 'ORDER_CLOSED'));
  });
}

test('refunds through a strict client', async () => {
  const wxpay = client();
  const [id, refundNo] = [number(), number()];
  const refund = (amount, no = refundNo) => wxpay.chain('v3/refund/domestic/refunds').post({
    out_trade_no: id,
    out_refund_no: no,
    reason: '商品已售完',
    notify_url: `${CLOUD}/payCallback`,
    amount: { refund: amount, total: 1234, currency: 'CNY' },
  });
  await wxpay.chain('v3/pay/transactions/jsapi').post(prepayRequest(id));
  await assert.rejects(refund(1234), refusedWith(404, 'RESOURCE_NOT_EXISTS'));
  await control('pay', { outTradeNo: id, notify: 'none' });
  await assert.rejects(refund(1235), refusedWith(400, 'INVALID_REQUEST'));
  const made = (await refund(1000)).data;
  assert.deepEqual([made.status, made.amount.refund], ['PROCESSING', 1000]);
  assert.equal((await refund(1000)).data.refund_id, made.refund_id);
  await assert.rejects(refund(999), refusedWith(400, 'INVALID_REQUEST'));
  await assert.rejects(refund(200, number()), refusedWith(429, 'FREQUENCY_LIMITED'));
  await control('refund', { outRefundNo: refundNo, notify: 'none' });
  assert.equal((await wxpay.chain(`v3/refund/domestic/refunds/${refundNo}`).get()).data.status, 'SUCCESS');
  await assert.rejects(wxpay.chain(`v3/refund/domestic/refunds/${number()}`).get(), refusedWith(404, 'RESOURCE_NOT_EXISTS'));
});

test('the platform certificate comes encrypted', async () => {
  const wxpay = client({ serial: pay.platformSerial });
  const [{ serial_no, encrypt_certificate: sealed }] = (await wxpay.chain('v3/certificates').get()).data.data;
  const plain = Aes.AesGcm.decrypt(sealed.ciphertext, pay.apiV3Key, sealed.nonce, sealed.associated_data);
  assert.deepEqual([serial_no, plain], [pay.platformSerial, pem('platform_certificate')]);
});

test('each side refuses what the other did not sign', async () => {
  const stranger = client({ merchantKey: 'wrong_private' });
  const forged = stranger.chain('v3/pay/transactions/jsapi').post(prepayRequest(number()));
  await assert.rejects(forged, refusedWith(401, 'SIGN_ERROR'));
  const wxpay = client({ trusted: { [pay.publicKeyId]: pem('wrong_public') } });
  const believed = wxpay.chain('v3/pay/transactions/jsapi').post(prepayRequest(number()));
  await assert.rejects(believed, { code: 'EV3_RES_HEADER_SIGNATURE_DIGEST' });
});

/** A notice made without any code of ours; `change` replaces parts of what is signed or sent. */
function notice(transaction, change = {}) {
  const nonce = Formatter.nonce(12);
  const body = JSON.stringify({
    id: randomUUID(),
    create_time: new Date().toISOString(),
    resource_type: 'encrypt-resource',
    event_type: 'TRANSACTION.SUCCESS',
    summary: '支付成功',
    resource: {
      original_type: 'transaction',
      algorithm: 'AEAD_AES_256_GCM',
      ciphertext: Aes.AesGcm.encrypt(transaction, change.apiV3Key ?? pay.apiV3Key, nonce, 'transaction'),
      associated_data: change.associatedData ?? 'transaction',
      nonce,
    },
  });
  const signed = { timestamp: Formatter.timestamp() + (change.skew ?? 0), nonce: Formatter.nonce() };
  const message = Formatter.response(signed.timestamp, signed.nonce, body);
  const signature = Rsa.sign(message, Rsa.from(pem(change.signer ?? 'wechatpay_private'), Rsa.KEY_TYPE_PRIVATE));
  const headers = {
    'Wechatpay-Timestamp': `${signed.timestamp}`,
    'Wechatpay-Nonce': signed.nonce,
    'Wechatpay-Serial': pay.publicKeyId,
    'Wechatpay-Signature': signature,
    'Wechatpay-Signature-Type': 'WECHATPAY2-SHA256-RSA2048',
    ...change.headers,
  };
  for (const name of change.without ?? []) delete headers[name];
  return post('/payCallback', change.body?.(body) ?? body, headers);
}

/** An order that waits for its payment, and WeChat Pay's word that it is paid, of which we have not heard. */
async function paidUnheard(name) {
  const { body: { token } } = await post('/login', { code: `dev-${name}-${number()}` });
  const { orderId } = await asUser('submitOrder', token, orderOf('p-apple', 2));
  const { payment } = await asUser('wxPay', token, { orderId });
  const { outTradeNo } = await control('pay', { payment, notify: 'none' });
  const { data } = await client().chain(`v3/pay/transactions/out-trade-no/${outTradeNo}`).get({
    params: { mchid: pay.mchid },
  });
  const state = async () => ({
    status: (await asUser('orders', token, { action: 'get', orderId })).status,
    points: (await asUser('getUserPoints', token, {})).points,
  });
  return { transaction: JSON.stringify(data), state };
}

test('a notice made by the plugin pays the order, once', async () => {
  const { transaction, state } = await paidUnheard('plugin-paid');
  assert.deepEqual(await state(), { status: 'pendingPayment', points: 0 });
  for (let i = 0; i < 2; i += 1) {
    const reply = await notice(transaction);
    assert.deepEqual([reply.status, reply.text], [204, '']);
    assert.deepEqual(await state(), { status: 'paid', points: 1 });
  }
});

test('a notice signed with the platform certificate is accepted', async () => {
  const { transaction, state } = await paidUnheard('plugin-certificate');
  const headers = { 'Wechatpay-Serial': pay.platformSerial };
  assert.equal((await notice(transaction, { signer: 'platform_private', headers })).status, 204);
  assert.equal((await state()).status, 'paid');
});

test('a tampered notice is refused and changes nothing', async () => {
  const { transaction, state } = await paidUnheard('plugin-tampered');
  const probe = 'WECHATPAY/SIGNTEST/bm90IGEgc2lnbmF0dXJl';
  const cases = {
    'another key signed': { signer: 'wrong_private' },
    'the other key of WeChat Pay signed': { signer: 'platform_private' },
    'the merchant signed': { signer: 'merchant_private' },
    'unknown serial': { headers: { 'Wechatpay-Serial': pay.unknownSerial } },
    'the merchant\'s serial': { headers: { 'Wechatpay-Serial': pay.merchantSerial } },
    'sign test': { headers: { 'Wechatpay-Signature': probe } },
    'another nonce': { headers: { 'Wechatpay-Nonce': 'x'.repeat(32) } },
    'another timestamp': { headers: { 'Wechatpay-Timestamp': `${Formatter.timestamp() - 7}` } },
    'six minutes old': { skew: -360 },
    'six minutes ahead': { skew: 360 },
    'another algorithm': { headers: { 'Wechatpay-Signature-Type': 'WECHATPAY2-SM2-WITH-SM3' } },
    'one byte changed': { body: (body) => body.replace('支付成功', '支付成功 ') },
    'written anew': { body: (body) => JSON.stringify(JSON.parse(body), null, 1) },
    'empty body': { body: () => '' },
    'another APIv3 key': { apiV3Key: 'x'.repeat(32) },
    'another context': { associatedData: 'refund' },
  };
  for (const name of ['Timestamp', 'Nonce', 'Serial', 'Signature']) cases[`no ${name}`] = { without: [`Wechatpay-${name}`] };
  for (const [name, change] of Object.entries(cases)) {
    const { status, body } = await notice(transaction, change);
    assert.ok(status >= 400 && body.code === 'FAIL' && body.message, `${name}: ${status} ${JSON.stringify(body)}`);
  }
  assert.deepEqual(await state(), { status: 'pendingPayment', points: 0 });
  assert.equal((await notice(transaction)).status, 204);
  assert.equal((await state()).status, 'paid');
});
