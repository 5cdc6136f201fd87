// The local cloud under test: where it is, its published test credentials, and plain HTTP calls to it.

import { strict as assert } from 'node:assert';

const url = process.env.JINLU_URL;
if (!url) throw new Error('JINLU_URL must name a running local cloud, such as http://127.0.0.1:8900');

export const CLOUD = url.replace(/\/$/, '');
export const ENV_ID = 'jinlu-local';
export const SECRET_ID = 'AKIDlocal';
export const SECRET_KEY = 'local-secret-key';

/** A POST with a JSON text, as any HTTP client would send it. */
export async function post(path, body, headers = {}) {
  const reply = await fetch(`${CLOUD}${path}`, {
    method: 'POST',
    headers: { 'content-type': 'application/json', ...headers },
    body: typeof body === 'string' ? body : JSON.stringify(body),
  });
  const text = await reply.text();
  return { status: reply.status, text, body: text ? JSON.parse(text) : null };
}

/** Calls a function as the user of a session. */
export async function asUser(name, token, event) {
  const reply = await post(`/v1/functions/${name}`, event, { 'x-app-session': token });
  assert.equal(reply.status, 200, reply.text);
  assert.equal(reply.body.success, true, reply.text);
  return reply.body;
}

/** Steers the simulators. */
export async function control(what, event) {
  const reply = await post(`/sim/control/${what}`, event);
  assert.equal(reply.status, 200, reply.text);
  return reply.body;
}

/** An order of some pieces of one product. */
export function orderOf(productId, quantity, more = {}) {
  return {
    items: [{ productId, quantity }],
    address: { name: '张三', phone: '13800138000', province: '浙江省', city: '杭州市', district: '西湖区', detail: '文三路 1 号' },
    paymentMethod: 'wechat',
    ...more,
  };
}
