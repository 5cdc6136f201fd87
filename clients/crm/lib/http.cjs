'use strict';

const http = require('node:http');
const https = require('node:https');

const { CrmError } = require('./error.cjs');

const RESPONSE_BYTES_MAX = 4 * 1024 * 1024;

/** Connections that are kept, and never keep the process. */
function connections() {
  const agents = { 'http:': new http.Agent({ keepAlive: true }), 'https:': new https.Agent({ keepAlive: true }) };
  return { of: (url) => agents[url.protocol], destroy: () => Object.values(agents).forEach((agent) => agent.destroy()) };
}

/**
 * One POST of a JSON text. Gives `{status, headers, text}` for every answer; fails with `NETWORK` or `TIMEOUT`.
 * `timeoutMs` is for all of it. Nothing here keeps the process alive.
 */
function post(agents, url, headers, body, timeoutMs, signal) {
  return new Promise((resolve, reject) => {
    const controller = new AbortController();
    let late = false;
    const timer = setTimeout(() => {
      late = true;
      controller.abort();
    }, timeoutMs);
    timer.unref();
    const stop = () => controller.abort();
    if (signal.aborted) stop();
    signal.addEventListener('abort', stop, { once: true });
    const end = (settle, value) => {
      clearTimeout(timer);
      signal.removeEventListener('abort', stop);
      settle(value);
    };
    const fail = (error) => {
      if (late) return end(reject, new CrmError('TIMEOUT', `no answer within ${timeoutMs} ms`, { retryable: true }));
      if (signal.aborted) return end(reject, new CrmError('CLIENT_CLOSED', 'the client was closed'));
      // Only the cause's code: some of Node's texts quote what was sent.
      return end(reject, new CrmError('NETWORK', `the request failed: ${error.code || error.name}`, { retryable: true }));
    };
    const request = (url.protocol === 'https:' ? https : http).request(url, {
      method: 'POST',
      agent: agents.of(url),
      signal: controller.signal,
      headers: { 'content-type': 'application/json', 'content-length': Buffer.byteLength(body), accept: 'application/json', ...headers },
    });
    request.on('socket', (socket) => {
      socket.unref();
      // A connection that is used again has connected already.
      if (socket.connecting) socket.once('connect', () => socket.unref());
    });
    request.on('error', fail);
    request.on('response', (response) => {
      const parts = [];
      let length = 0;
      response.on('error', fail);
      response.on('data', (part) => {
        length += part.length;
        if (length > RESPONSE_BYTES_MAX) response.destroy(new Error('too long'));
        else parts.push(part);
      });
      response.on('end', () => {
        end(resolve, { status: response.statusCode, headers: response.headers, text: Buffer.concat(parts).toString('utf8') });
      });
    });
    request.end(body);
  });
}

module.exports = { connections, post };
