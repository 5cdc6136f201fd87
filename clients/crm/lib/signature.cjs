'use strict';

const { createHash, createHmac, randomBytes } = require('node:crypto');

/** Lower-case hex of HMAC-SHA256(secret, timestamp \n nonce \n METHOD \n path \n hex SHA-256 of the body). */
function sign(secret, timestamp, nonce, method, path, body) {
  const hash = createHash('sha256').update(body).digest('hex');
  return createHmac('sha256', secret).update([timestamp, nonce, method, path, hash].join('\n')).digest('hex');
}

/** 32 characters; every try has its own, because each is accepted once. */
const freshNonce = () => randomBytes(24).toString('base64url');

const seconds = (now) => String(Math.floor(now / 1000));

/** The four headers of a signed request. `path` has no query. */
function signedHeaders({ keyId, secret, method = 'POST', path, body = '', now = Date.now(), nonce = freshNonce() }) {
  const timestamp = seconds(now);
  return {
    'x-jinlu-key': keyId,
    'x-jinlu-timestamp': timestamp,
    'x-jinlu-nonce': nonce,
    'x-jinlu-signature': sign(secret, timestamp, nonce, method, path, body),
  };
}

/** The event that carries its signature, for where there are no headers. `payload` is the JSON text of the input. */
function signedEvent({ keyId, secret, name, payload, now = Date.now(), nonce = freshNonce() }) {
  const timestamp = seconds(now);
  return { key: keyId, timestamp, nonce, payload, signature: sign(secret, timestamp, nonce, 'EVENT', `/${name}`, payload) };
}

module.exports = { sign, signedHeaders, signedEvent };
