// Stands in for WeChat Pay: checks every request with wechatpay-axios-plugin, and signs its answers with it.
// Prints one line with its port, then one per request with what it thinks of it, and ends when its input does.

import { createServer } from 'node:http';
import { Formatter, Rsa } from 'wechatpay-axios-plugin';
import { pay, pem } from './keys.mjs';

const merchant = Rsa.from(pem('merchant_certificate'), Rsa.KEY_TYPE_PUBLIC);
const signers = {
  [pay.publicKeyId]: Rsa.from(pem('wechatpay_private'), Rsa.KEY_TYPE_PRIVATE),
  [pay.platformSerial]: Rsa.from(pem('platform_private'), Rsa.KEY_TYPE_PRIVATE),
};
const say = (line) => process.stdout.write(`${JSON.stringify(line)}\n`);

/** The key that the client wants the answer signed with; who names none gets the platform certificate's. */
const wanted = (headers) => headers['wechatpay-serial'] ?? pay.platformSerial;

/** Why the request is not what the documents ask for; empty when it is. */
function faults({ method, url, headers }, body) {
  const found = [];
  const [scheme, fields] = (headers.authorization ?? '').split(' ');
  const value = Object.fromEntries([...(fields ?? '').matchAll(/(?:^|,)([a-z_]+)="([^"]*)"/g)].map(([, k, v]) => [k, v]));
  if (scheme !== 'WECHATPAY2-SHA256-RSA2048') found.push(`scheme ${scheme}`);
  if (value.mchid !== pay.mchid) found.push(`mchid ${value.mchid}`);
  if (value.serial_no !== pay.merchantSerial) found.push(`serial_no ${value.serial_no}`);
  if (!/^[0-9A-Za-z]{16,32}$/.test(value.nonce_str)) found.push(`nonce_str ${value.nonce_str}`);
  if (Math.abs(Formatter.timestamp() - Number(value.timestamp)) > 300) found.push(`timestamp ${value.timestamp}`);
  // As the plugin itself would write it from these values, whatever the order of the fields.
  const own = Formatter.authorization(value.mchid, value.nonce_str, value.signature, value.timestamp, value.serial_no);
  const sorted = (text) => text?.split(' ')[1]?.split(',').sort().join();
  if (sorted(own) !== sorted(headers.authorization)) found.push(`Authorization ${headers.authorization}`);
  const message = Formatter.request(method, url, value.timestamp, value.nonce_str, body);
  if (!value.signature || !Rsa.verify(message, value.signature, merchant)) found.push('signature');
  if (headers.accept !== 'application/json') found.push(`Accept ${headers.accept}`);
  if (!headers['user-agent']) found.push('User-Agent');
  if (body && headers['content-type'] !== 'application/json') found.push(`Content-Type ${headers['content-type']}`);
  if (!(wanted(headers) in signers)) found.push(`Wechatpay-Serial ${wanted(headers)}`);
  return found;
}

/** The status and the text of a good answer. */
function answer(method, url, body) {
  const { pathname } = new URL(url, 'http://recorder');
  const [, number] = pathname.match(/\/(?:out-trade-no|refunds)\/([^/]+)/) ?? [];
  if (number?.startsWith('missing')) {
    return [404, JSON.stringify({ code: pathname.includes('/refund/') ? 'RESOURCE_NOT_EXISTS' : 'ORDER_NOT_EXIST', message: '不存在' })];
  }
  if (pathname.endsWith('/v3/pay/transactions/jsapi')) return [200, '{ "prepay_id":"wx201410272009395522657a690389285100" }\n'];
  if (pathname.endsWith('/close')) return [204, ''];
  if (pathname.includes('/out-trade-no/')) {
    return [200, JSON.stringify({
      appid: pay.appid,
      mchid: pay.mchid,
      out_trade_no: number,
      transaction_id: '4200001234202601010000000001',
      trade_type: 'JSAPI',
      trade_state: 'SUCCESS',
      trade_state_desc: '支付成功',
      bank_type: 'OTHERS',
      attach: '',
      success_time: '2026-01-01T12:00:00+08:00',
      payer: { openid: 'o-recorder' },
      amount: { total: 1234, payer_total: 1234, currency: 'CNY', payer_currency: 'CNY' },
    })];
  }
  const asked = method === 'POST' ? JSON.parse(body) : { out_refund_no: number, amount: { refund: 1000, total: 1234 } };
  return [200, JSON.stringify({
    refund_id: '50000000382019052709732678859',
    out_refund_no: asked.out_refund_no,
    transaction_id: '4200001234202601010000000001',
    out_trade_no: 'recorded',
    channel: 'ORIGINAL',
    user_received_account: '支付用户零钱',
    create_time: '2026-01-01T12:00:01+08:00',
    status: 'PROCESSING',
    amount: { ...asked.amount, payer_total: 1234, payer_refund: asked.amount.refund, currency: 'CNY' },
  })];
}

const server = createServer(async (request, response) => {
  const chunks = [];
  for await (const chunk of request) chunks.push(chunk);
  const body = Buffer.concat(chunks).toString('utf8');
  const found = faults(request, body);
  say({ method: request.method, url: request.url, body, faults: found });
  const [status, text] = found.length ? [401, JSON.stringify({ code: 'SIGN_ERROR', message: found.join(', ') })] : answer(request.method, request.url, body);
  const headers = { 'Content-Type': 'application/json; charset=utf-8' };
  // Errors come unsigned.
  if (status < 300) {
    const serial = wanted(request.headers);
    const [timestamp, nonce] = [Formatter.timestamp(), Formatter.nonce()];
    Object.assign(headers, {
      'Request-ID': '08F78BB3AF0610D302189DE0BB1D20CE1C-268578704',
      'Wechatpay-Timestamp': `${timestamp}`,
      'Wechatpay-Nonce': nonce,
      'Wechatpay-Serial': serial,
      'Wechatpay-Signature': Rsa.sign(Formatter.response(timestamp, nonce, text), signers[serial]),
      'Wechatpay-Signature-Type': 'WECHATPAY2-SHA256-RSA2048',
    });
  }
  response.writeHead(status, headers).end(text);
});
server.listen(0, '127.0.0.1', () => say({ port: server.address().port }));
process.stdin.resume().on('end', () => process.exit(0));
