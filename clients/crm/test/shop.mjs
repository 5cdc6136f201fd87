// A stand-in for the shop: checks signatures by its own arithmetic, remembers what it was sent, and answers as it is told.

import { createHash, createHmac } from 'node:crypto';
import { createServer } from 'node:http';

export const KEY_ID = 'crm-test';
export const SECRET = 'a-secret-nobody-may-see-1234567890';

/** Accepts everything. */
export const accept = (input) => ({
  status: 200,
  body: {
    success: true,
    sent: input.assignments?.length ?? 0,
    queued: 0,
    refused: 0,
    results: (input.assignments ?? []).map(({ customerId }, at) => ({ customerId, status: 'sent', messageId: `m-${at}` })),
    requestId: 'trace-1',
  },
});

export const refuse = (status, code, more = {}) => ({
  status,
  body: { success: false, code, message: 'refused', requestId: 'trace-1', retryable: false, ...more },
});

function expected(timestamp, nonce, method, path, text) {
  const hash = createHash('sha256').update(text).digest('hex');
  return createHmac('sha256', SECRET).update(`${timestamp}\n${nonce}\n${method}\n${path}\n${hash}`).digest('hex');
}

/**
 * Starts it. `answer(input, request, n)` gives `{status, headers?, body}`, a text as body for anything else than JSON,
 * `'hang'` or `'reset'`; the default accepts. `skewSeconds` is how far its clock is ahead.
 */
export async function shop(answer = accept, { skewSeconds = 0 } = {}) {
  const seen = [];
  const server = createServer((request, response) => {
    const parts = [];
    request.on('data', (part) => parts.push(part));
    request.on('end', () => {
      const text = Buffer.concat(parts).toString('utf8');
      const url = new URL(request.url, 'http://shop');
      const headers = request.headers;
      const one = { path: url.pathname, query: Object.fromEntries(url.searchParams), text, headers, port: request.socket.remotePort };
      const reply = (told) => {
        if (told === 'hang') return;
        if (told === 'reset') {
          request.socket.destroy();
          return;
        }
        const body = typeof told.body === 'string' ? told.body : JSON.stringify(told.body);
        response.writeHead(told.status, { 'content-type': 'application/json', ...told.headers }).end(body);
      };
      if (url.pathname === '/cgi-bin/stable_token') {
        one.input = JSON.parse(text);
        seen.push(one);
        reply(answer(one.input, one, seen.length - 1));
        return;
      }
      const wrapped = url.pathname === '/tcb/invokecloudfunction';
      const event = wrapped ? JSON.parse(text) : null;
      one.name = wrapped ? url.searchParams.get('name') : url.pathname.slice(1);
      one.payload = wrapped ? event.payload : text;
      one.nonce = wrapped ? event.nonce : headers['x-jinlu-nonce'];
      one.timestamp = wrapped ? event.timestamp : headers['x-jinlu-timestamp'];
      const signature = wrapped ? event.signature : headers['x-jinlu-signature'];
      const [method, path] = wrapped ? ['EVENT', `/${one.name}`] : ['POST', url.pathname];
      one.input = JSON.parse(one.payload);
      const replayed = seen.some((other) => other.nonce === one.nonce);
      seen.push(one);
      const now = Math.floor(Date.now() / 1000) + skewSeconds;
      const date = { date: new Date(now * 1000).toUTCString() };
      if (Math.abs(now - Number(one.timestamp)) > 300) {
        reply({ ...refuse(401, 'SIGNATURE_INVALID', { details: { reason: 'timestamp' } }), headers: date });
      } else if (replayed || signature !== expected(one.timestamp, one.nonce, method, path, one.payload)) {
        reply(refuse(401, 'SIGNATURE_INVALID', { details: { reason: 'signature' } }));
      } else {
        reply(answer(one.input, one, seen.length - 1));
      }
    });
  });
  await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
  server.unref();
  const baseUrl = `http://127.0.0.1:${server.address().port}`;
  const close = () => {
    server.closeAllConnections();
    server.close();
  };
  return { baseUrl, seen, close };
}

/** Answers taken from a list, one after the other; the last one stays. */
export const inTurn = (...answers) => {
  let at = 0;
  return (input, request) => {
    const told = answers[Math.min(at, answers.length - 1)];
    at += 1;
    return typeof told === 'function' ? told(input, request) : told;
  };
};
