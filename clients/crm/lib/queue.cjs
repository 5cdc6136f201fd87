'use strict';

const { BATCH_MAX, sendAll } = require('./assignments.cjs');
const { CrmError } = require('./error.cjs');

/** Nobody waits for the queue, so it can wait as long as WeChat and the shop ask for. */
const WAIT_MAX_MS = 10 * 60 * 1000;

/**
 * Assignments on their way, in memory, for callers that do not wait. What is put in is sent a little later, a hundred at once,
 * one request at a time. It is bounded; what does not fit, and what could not be sent, is reported to `onError`.
 */
function queue(call, { queueLimit, queueRetries, dropPolicy, onError, onResult }) {
  let waiting = [];
  let sending = [];
  let running = null;
  let warned = false;

  /** A handler that throws must not stop the queue, nor the program. */
  function tell(handler, ...values) {
    try {
      const told = handler(...values);
      if (typeof told?.then === 'function') Promise.resolve(told).catch(() => {});
    } catch {
      // Theirs to know.
    }
  }

  function report(error, assignments) {
    if (onError) return tell(onError, error, assignments);
    if (warned) return undefined;
    warned = true;
    // Said once, and without what was lost: it names customers.
    process.emitWarning(`${assignments.length} assignments were not sent (${error.code}); set onError to see them all`, 'JinluCrmWarning');
    return undefined;
  }

  async function run() {
    // Callers of the same turn share a request.
    await new Promise((resolve) => setImmediate(resolve).unref());
    while (waiting.length > 0) {
      sending = waiting.slice(0, BATCH_MAX);
      waiting = waiting.slice(BATCH_MAX);
      const result = await sendAll(call, sending, { retries: queueRetries, waitMaxMs: WAIT_MAX_MS });
      const lost = sending.filter((_, at) => result.results[at].status === 'failed');
      sending = [];
      if (onResult) tell(onResult, result);
      if (lost.length > 0) report(result.error ?? new CrmError('BAD_RESPONSE', 'the shop left results out'), lost);
    }
    running = null;
  }

  return {
    size: () => waiting.length + sending.length,
    /** Takes prepared assignments; says how many it took. What is being sent keeps its place. */
    add(assignments) {
      const room = Math.max(0, queueLimit - sending.length);
      const all = [...waiting, ...assignments];
      const over = Math.max(0, all.length - room);
      let dropped = [];
      if (dropPolicy === 'oldest') {
        dropped = all.slice(0, over);
        waiting = all.slice(over);
      } else {
        dropped = over > 0 ? all.slice(-over) : [];
        waiting = over > 0 ? all.slice(0, -over) : all;
      }
      running ??= run();
      if (dropped.length > 0) report(new CrmError('QUEUE_FULL', `the queue holds ${queueLimit} assignments`), dropped);
      return assignments.length - (dropPolicy === 'oldest' ? 0 : dropped.length);
    },
    /** Settles when nothing is on its way. */
    idle: () => running ?? Promise.resolve(),
    /** Gives up what is still waiting. */
    abandon(error) {
      const lost = waiting;
      waiting = [];
      if (lost.length > 0) report(error, lost);
    },
    report,
  };
}

module.exports = { queue };
