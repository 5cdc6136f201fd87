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
  // What waits are the elements from `head` on; those before it have left and are cut off now and then, so that an addition
  // costs the same however many wait.
  let waiting = [];
  let head = 0;
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

  /** Takes away the first so many. */
  function take(count) {
    const taken = waiting.slice(head, head + count);
    head += taken.length;
    if (head * 2 > waiting.length) {
      waiting = waiting.slice(head);
      head = 0;
    }
    return taken;
  }

  const size = () => waiting.length - head + sending.length;

  async function run() {
    // Callers of the same turn share a request.
    await new Promise((resolve) => setImmediate(resolve).unref());
    while (waiting.length > head) {
      sending = take(BATCH_MAX);
      const result = await sendAll(call, sending, { retries: queueRetries, waitMaxMs: WAIT_MAX_MS });
      const lost = sending.filter((_, at) => result.results[at].status === 'failed');
      sending = [];
      if (onResult) tell(onResult, result);
      if (lost.length > 0) report(result.error ?? new CrmError('BAD_RESPONSE', 'the shop left results out'), lost);
    }
    running = null;
  }

  return {
    size,
    /** Takes prepared assignments; says how many it took. What is being sent keeps its place. */
    add(assignments) {
      const over = Math.max(0, size() + assignments.length - queueLimit);
      const kept = dropPolicy === 'oldest' ? assignments.length : assignments.length - over;
      for (const one of assignments.slice(0, kept)) waiting.push(one);
      const dropped = dropPolicy === 'oldest' ? take(over) : assignments.slice(kept);
      running ??= run();
      if (dropped.length > 0) report(new CrmError('QUEUE_FULL', `the queue holds ${queueLimit} assignments`), dropped);
      return kept;
    },
    /** Settles when nothing is on its way. */
    idle: () => running ?? Promise.resolve(),
    /** Gives up what is still waiting. */
    abandon(error) {
      const lost = take(waiting.length);
      if (lost.length > 0) report(error, lost);
    },
    report,
  };
}

module.exports = { queue };
