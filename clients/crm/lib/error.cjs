'use strict';

/**
 * Why a call did not give its result. `code` is the shop's (`FORBIDDEN`, `RATE_LIMITED` …) or one of this module's:
 * `NETWORK`, `TIMEOUT`, `BAD_RESPONSE`, `INVALID_ARGUMENT`, `CLIENT_CLOSED`, `QUEUE_FULL`, `UNKNOWN` (a refusal without a code),
 * `CLIENT_ERROR` (the call could not be made at all), and `WECHAT_…` for WeChat's own.
 * It carries no header, no address with a token, and nothing of what was sent.
 */
class CrmError extends Error {
  constructor(code, message, more = {}) {
    super(message || code);
    this.name = 'CrmError';
    this.code = code;
    this.retryable = more.retryable === true;
    for (const name of ['status', 'details', 'requestId', 'errcode', 'calls', 'retryAfterSeconds']) {
      if (more[name] !== undefined) this[name] = more[name];
    }
  }

  /** For logs: an Error is `{}` in JSON otherwise. */
  toJSON() {
    const { name, message } = this;
    return { name, message, ...this };
  }
}

module.exports = { CrmError };
