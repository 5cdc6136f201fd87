'use strict';

const { inspect } = require('node:util');

const { prepared, sendAll } = require('./assignments.cjs');
const { caller } = require('./caller.cjs');
const { CrmError } = require('./error.cjs');
const { connections } = require('./http.cjs');
const { read } = require('./options.cjs');
const { Pending, sleep } = require('./pending.cjs');
const { queue } = require('./queue.cjs');
const { direct, throughWechat } = require('./transport.cjs');

/** A client of one shop. Throws a TypeError when the options are wrong, and nothing afterwards. */
function createClient(options) {
  const settings = read(options);
  const { throwErrors, retries, via } = settings;
  const agents = connections();
  const closing = new AbortController();
  const transport = (via === 'wechat' ? throughWechat : direct)({ ...settings, agents });
  const call = caller({ ...settings, transport }, closing.signal);
  const background = queue(call, settings);
  let closed = false;

  const asError = (thrown) =>
    thrown instanceof CrmError ? thrown : new CrmError('INVALID_ARGUMENT', 'the input cannot be written as JSON');

  /** Runs a call; what it throws becomes a result, unless the client was made to throw. */
  const outcome = (work, empty) => {
    const made = (async () => {
      try {
        if (closed) throw new CrmError('CLIENT_CLOSED', 'the client was closed');
        const result = await work();
        if (throwErrors && result.error) throw result.error;
        return result;
      } catch (thrown) {
        const error = asError(thrown);
        if (throwErrors) throw error;
        return { ok: false, ...empty, error };
      }
    })();
    return Pending.of(made);
  };

  const simple = (name, input, empty = {}) =>
    outcome(async () => {
      const { body, attempts } = await call(name, input, { retries });
      const { success, ...fields } = body;
      return { ok: success, ...fields, error: null, attempts };
    }, empty);

  /** When nothing is on its way any more, or the time is up. */
  async function drained(timeoutMs) {
    const late = new AbortController();
    await Promise.race([background.idle(), sleep(timeoutMs, late.signal)]);
    late.abort();
    return { ok: background.size() === 0, pending: background.size() };
  }

  const client = {
    notifyAssignment(assignments, { requestId, wait } = {}) {
      const nothing = { sent: 0, queued: 0, refused: 0, failed: 0, results: [], attempts: 0 };
      return outcome(() => sendAll(call, prepared(assignments), { retries, requestId, wait }), nothing);
    },

    notifyAssignmentInBackground(assignments) {
      const given = Array.isArray(assignments) ? assignments : [assignments];
      try {
        if (closed) throw new CrmError('CLIENT_CLOSED', 'the client was closed');
        return background.add(prepared(given));
      } catch (thrown) {
        background.report(asError(thrown), given);
        return 0;
      }
    },

    get pending() {
      return background.size();
    },

    flush({ timeoutMs = 10_000 } = {}) {
      return Pending.of(drained(timeoutMs));
    },

    close({ timeoutMs = 5_000 } = {}) {
      closed = true;
      const ended = async () => {
        const flushed = await drained(timeoutMs);
        background.abandon(new CrmError('CLIENT_CLOSED', 'the client was closed'));
        closing.abort();
        await background.idle();
        agents.destroy();
        return flushed;
      };
      return Pending.of(ended());
    },

    messages: Object.freeze({
      list: (filter = {}) => simple('messages', { ...filter, action: 'list' }, { data: [], nextCursor: null }),
      get: (messageId) => simple('messages', { action: 'get', messageId }),
      redrive: (messageId, { mayRepeat, requestId } = {}) =>
        simple('messages', { action: 'redrive', messageId, mayRepeat, requestId }),
    }),

    staff: Object.freeze({
      upsert: (member) => simple('staff', { ...member, action: 'upsert' }),
      get: (userId) => simple('staff', { action: 'get', userId }),
      list: (filter = {}) => simple('staff', { ...filter, action: 'list' }, { data: [], nextCursor: null }),
    }),

    [inspect.custom]() {
      const { baseUrl, wechatBaseUrl, keyId } = settings;
      return `CrmClient ${inspect({ via, url: baseUrl ?? wechatBaseUrl, keyId, pending: background.size() })}`;
    },
  };
  return Object.freeze(client);
}

module.exports = { createClient };
