'use strict';

const { randomUUID } = require('node:crypto');
const { setMaxListeners } = require('node:events');
const { inspect } = require('node:util');

const { prepared, sendAll } = require('./assignments.cjs');
const { caller } = require('./caller.cjs');
const { CrmError } = require('./error.cjs');
const { connections } = require('./http.cjs');
const { read } = require('./options.cjs');
const { Pending, sleep } = require('./pending.cjs');
const { queue } = require('./queue.cjs');
const { direct, throughWechat } = require('./transport.cjs');

/** Options without those that are null: they count as left out. */
const given = (options) => Object.fromEntries(Object.entries(options ?? {}).filter(([, value]) => value !== null));

/** What a timer takes; anything else counts as left out. */
function timeOf(options, otherwise) {
  const { timeoutMs = otherwise } = given(options);
  return Number.isNaN(Number(timeoutMs)) ? otherwise : Math.min(Math.max(0, Number(timeoutMs)), 2 ** 31 - 1);
}

/** The error of a call, with what became of each assignment. Logs do not show that: it names customers. */
function withResults({ error, results }) {
  return results ? Object.defineProperty(error, 'results', { value: results, configurable: true }) : error;
}

/** A client of one shop. Throws a TypeError when the options are wrong, and nothing afterwards. */
function createClient(options) {
  const settings = read(options);
  const { throwErrors, retries, via } = settings;
  const agents = connections();
  const closing = new AbortController();
  // Every call under way listens to it.
  setMaxListeners(0, closing.signal);
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
        if (throwErrors && result.error) throw withResults(result);
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
      const { body, calls } = await call(name, input(), { retries });
      const { success, ...fields } = body;
      return { ok: success, ...fields, error: null, calls };
    }, empty);

  /** When nothing is on its way any more, or the time is up. */
  async function drained(timeoutMs) {
    const late = new AbortController();
    await Promise.race([background.idle(), sleep(timeoutMs, late.signal)]);
    late.abort();
    return { ok: background.size() === 0, pending: background.size() };
  }

  const client = {
    notifyAssignment(assignments, options) {
      const nothing = { sent: 0, queued: 0, refused: 0, failed: 0, results: [], calls: 0 };
      const work = () => {
        const { requestId, wait } = given(options);
        // Under a key of the caller's own a repeat must have the same text, so no time is added to it.
        const list = requestId === undefined ? prepared(assignments) : prepared(assignments, null);
        return sendAll(call, list, { retries, requestId, wait });
      };
      return outcome(work, nothing);
    },

    // Named before the first try, so that a retry of a command is known for one.
    call: (name, input) => simple(name, () => ({ ...input, requestId: input?.requestId ?? randomUUID() })),

    notifyAssignmentInBackground(assignments) {
      const list = Array.isArray(assignments) ? assignments : [assignments];
      try {
        if (closed) throw new CrmError('CLIENT_CLOSED', 'the client was closed');
        return background.add(prepared(list));
      } catch (thrown) {
        background.report(asError(thrown), list);
        return 0;
      }
    },

    get pending() {
      return background.size();
    },

    flush(options) {
      return Pending.of(drained(timeOf(options, 10_000)));
    },

    close(options) {
      closed = true;
      const ended = async () => {
        const flushed = await drained(timeOf(options, 5_000));
        background.abandon(new CrmError('CLIENT_CLOSED', 'the client was closed'));
        closing.abort();
        // What is under way ends at once, for everything here listens; the bound is for what nobody thought of.
        await drained(1_000);
        agents.destroy();
        return flushed;
      };
      return Pending.of(ended());
    },

    messages: Object.freeze({
      list: (filter) => simple('messages', () => ({ ...filter, action: 'list' }), { data: [], nextCursor: null }),
      get: (messageId) => simple('messages', () => ({ action: 'get', messageId })),
      redrive: (messageId, options) =>
        simple('messages', () => {
          const { mayRepeat, requestId = randomUUID() } = given(options);
          return { action: 'redrive', messageId, mayRepeat, requestId };
        }),
    }),

    staff: Object.freeze({
      upsert: (member) => simple('staff', () => ({ ...member, action: 'upsert' })),
      get: (userId) => simple('staff', () => ({ action: 'get', userId })),
      list: (filter) => simple('staff', () => ({ ...filter, action: 'list' }), { data: [], nextCursor: null }),
    }),

    [inspect.custom]() {
      const { baseUrl, wechatBaseUrl, keyId } = settings;
      return `CrmClient ${inspect({ via, url: baseUrl ?? wechatBaseUrl, keyId, pending: background.size() })}`;
    },
  };
  return Object.freeze(client);
}

module.exports = { createClient };
