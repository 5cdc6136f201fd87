'use strict';

const { randomUUID } = require('node:crypto');

const { CrmError } = require('./error.cjs');

/** What the shop takes at once. */
const BATCH_MAX = 100;
/** The shop takes bodies of 100 KB; inside an event every quote counts twice. */
const BATCH_BYTES_MAX = 80 * 1024;

/**
 * Copies of the assignments, each with its `assignedAt`: the shop knows an assignment by (customer, assignee, assignedAt), so
 * the time is written down once, before the first try.
 */
function prepared(given, now = new Date()) {
  const list = Array.isArray(given) ? given : [given];
  return list.map((one, at) => {
    if (typeof one !== 'object' || one === null || Array.isArray(one)) {
      throw new CrmError('INVALID_ARGUMENT', `assignments[${at}] is not an object`, { details: { field: `assignments[${at}]` } });
    }
    const assignedAt = one.assignedAt ?? now;
    return JSON.parse(JSON.stringify({ ...one, assignedAt }));
  });
}

/** Pieces of at most a hundred that also fit into one body. */
function batches(list) {
  const found = [];
  let batch = [];
  let bytes = 0;
  for (const one of list) {
    const length = Buffer.byteLength(JSON.stringify(JSON.stringify(one)));
    if (batch.length === BATCH_MAX || (batch.length > 0 && bytes + length > BATCH_BYTES_MAX)) {
      found.push(batch);
      batch = [];
      bytes = 0;
    }
    batch.push(one);
    bytes += length;
  }
  if (batch.length > 0) found.push(batch);
  return found;
}

const failed = (one, error) => ({ customerId: one.customerId, status: 'failed', reason: error.code });

/** Which assignment a refusal is about, if it names one. */
function blamed(error, count) {
  const found = error.code === 'INVALID_ARGUMENT' && /^assignments\[(\d+)\]/.exec(error.details?.field ?? '');
  return found && Number(found[1]) < count ? Number(found[1]) : null;
}

/**
 * Sends one batch. The shop refuses a batch as a whole when one assignment in it is malformed; that one is taken out and the
 * others are sent. Gives a result per assignment, in order, and the error if there was one.
 */
async function sendBatch(call, batch, { requestId, wait, ...effort }) {
  const results = new Array(batch.length);
  let left = batch.map((_, at) => at);
  let error = null;
  let attempts = 0;
  for (let key = requestId ?? randomUUID(); left.length > 0; key = randomUUID()) {
    const input = { requestId: key, assignments: left.map((at) => batch[at]) };
    if (wait !== undefined) input.wait = wait;
    try {
      const answer = await call('notifyAssignment', input, effort);
      attempts += answer.attempts;
      const told = Array.isArray(answer.body.results) ? answer.body.results : [];
      left.forEach((at, n) => {
        results[at] = told[n] ?? { customerId: batch[at].customerId, status: 'failed', reason: 'BAD_RESPONSE' };
      });
      return { results, error, attempts };
    } catch (thrown) {
      error = thrown;
      attempts += thrown.attempts ?? 1;
      const bad = blamed(thrown, left.length);
      const out = bad === null ? left : [left[bad]];
      for (const at of out) results[at] = failed(batch[at], thrown);
      left = left.filter((at) => !out.includes(at));
    }
  }
  return { results, error, attempts };
}

/** After these the next batch would fare no better. */
const isGeneral = (error) => error !== null && !['INVALID_ARGUMENT', 'PAYLOAD_TOO_LARGE'].includes(error.code);

/** Sends any number of prepared assignments. Never rejects. */
async function sendAll(call, list, { requestId, ...rest }) {
  const parts = batches(list);
  const total = { results: [], error: null, attempts: 0 };
  for (const [at, batch] of parts.entries()) {
    if (isGeneral(total.error)) {
      total.results.push(...batch.map((one) => failed(one, total.error)));
      continue;
    }
    const key = requestId === undefined || parts.length === 1 ? requestId : `${requestId}-${at}`;
    const sent = await sendBatch(call, batch, { ...rest, requestId: key });
    total.results.push(...sent.results);
    total.error = sent.error ?? total.error;
    total.attempts += sent.attempts;
  }
  const count = (status) => total.results.filter((result) => result.status === status).length;
  const failures = count('failed');
  return {
    ok: failures === 0,
    sent: count('sent'),
    queued: count('queued'),
    refused: count('refused'),
    failed: failures,
    ...total,
  };
}

module.exports = { prepared, sendAll, BATCH_MAX };
