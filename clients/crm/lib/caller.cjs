'use strict';

const { CrmError } = require('./error.cjs');
const { sleep } = require('./pending.cjs');

/** A clock that is further off than this is set right; the shop accepts 300 s. */
const SKEW_MS = 240_000;

const TRANSIENT = new Set(['RATE_LIMITED', 'INTERNAL', 'UPSTREAM_ERROR', 'UNAVAILABLE', 'TIMEOUT']);

/**
 * Calls functions of the shop, and again where that can help: after a network failure, 429, 5xx, and whatever the shop itself
 * calls retryable. Each try is signed anew; what is sent stays the same, so that the shop recognises it.
 */
function caller({ transport, retryDelayMs, retryDelayMaxMs }, signal) {
  // How far the shop's clock is ahead of this machine's, learnt from a refusal.
  let aheadMs = 0;

  /** The envelope of a success, or a CrmError. */
  return async function call(name, input, { retries, waitMaxMs = retryDelayMaxMs }) {
    const text = JSON.stringify(input);
    let clockSet = false;
    for (let calls = 1; ; calls += 1) {
      let error;
      // What this try was signed with: meanwhile another call may have set the clock right.
      let signedAt = Date.now() + aheadMs;
      const clock = () => {
        signedAt = Date.now() + aheadMs;
        return signedAt;
      };
      try {
        const answer = await transport.call(name, text, clock, signal);
        if (answer.body.success) return { body: answer.body, calls };
        error = refusal(answer);
        const ahead = clockSet ? null : skew(answer, signedAt);
        if (ahead !== null) {
          aheadMs = ahead;
          clockSet = true;
          continue;
        }
      } catch (thrown) {
        error = thrown instanceof CrmError ? thrown : new CrmError('CLIENT_ERROR', `the call could not be made: ${thrown?.name}`);
      }
      error.calls = calls;
      const waitMs = delay(calls, error, waitMaxMs);
      if (!error.retryable || calls > retries || signal.aborted || waitMs === null) throw error;
      await sleep(waitMs, signal);
      if (signal.aborted) throw new CrmError('CLIENT_CLOSED', 'the client was closed', { calls });
    }
  };

  /** Doubling, between half and one and a half of it; never shorter than what the shop asks for. Null: it asks for too much. */
  function delay(calls, { retryAfterSeconds = 0 }, waitMaxMs) {
    const doubled = Math.min(retryDelayMaxMs, retryDelayMs * 2 ** (calls - 1));
    const asked = retryAfterSeconds * 1000;
    return asked > waitMaxMs ? null : Math.max(asked, doubled * (0.5 + Math.random()));
  }

  /** How far the shop's clock is ahead, where that is why it refused. */
  function skew({ body, date }, signedAt) {
    if (body.code !== 'SIGNATURE_INVALID') return null;
    const reason = body.details?.reason;
    if (reason !== undefined && reason !== 'timestamp') return null;
    const told = Number(body.details?.serverTime) * 1000 || Date.parse(date ?? '');
    const ahead = told - Date.now();
    return Number.isNaN(ahead) || Math.abs(told - signedAt) < SKEW_MS ? null : ahead;
  }
}

function refusal({ status, body, retryAfter }) {
  const asked = [retryAfter, body.details?.retryAfterSeconds].filter((value) => Number.isFinite(value));
  // Both, because on the way through WeChat the status is that of the transport.
  const transient = TRANSIENT.has(body.code) || status === 429 || status >= 500;
  return new CrmError(String(body.code ?? 'UNKNOWN'), String(body.message ?? ''), {
    status,
    details: body.details,
    requestId: body.requestId,
    retryable: body.retryable === true || transient,
    retryAfterSeconds: asked.length ? Math.max(...asked) : undefined,
  });
}

module.exports = { caller };
