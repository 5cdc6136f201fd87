'use strict';

const { createHash, randomUUID } = require('node:crypto');
const { isDate } = require('node:util/types');

const { CrmError } = require('./error.cjs');

/** What the shop takes at once. */
const BATCH_MAX = 100;
/** The shop takes bodies of 100 KB; inside an event every quote counts twice. */
const BATCH_BYTES_MAX = 80 * 1024;
/** So many malformed ones are taken out of a batch, a request each; then the caller is at fault, and the rest fails with them. */
const BLAMED_MAX = 5;
/** Of a `requestId`. */
const KEY_LENGTH_MAX = 64;

/**
 * Copies of the assignments. Those without `assignedAt` get `now`, unless that is null: the shop knows an assignment by
 * (customer, assignee, assignedAt), so the time is written down once, before the first try.
 */
function prepared(given, now = new Date()) {
  const list = Array.isArray(given) ? given : [given];
  return list.map((one, at) => {
    const wrong = (field, what) => new CrmError('INVALID_ARGUMENT', `${field} ${what}`, { details: { field } });
    if (typeof one !== 'object' || one === null || Array.isArray(one)) throw wrong(`assignments[${at}]`, 'is not an object');
    const assignedAt = one.assignedAt ?? now ?? undefined;
    // In JSON it would be null, which stands for none.
    if (isDate(assignedAt) && Number.isNaN(assignedAt.getTime())) throw wrong(`assignments[${at}].assignedAt`, 'is no valid time');
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

/** With the time that was written down, by which whoever tells it again names the same assignment. */
const result = (one, told) => (one.assignedAt === undefined ? told : { ...told, assignedAt: one.assignedAt });

const failed = (one, error) => result(one, { customerId: one.customerId, status: 'failed', reason: error.code });

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
  let calls = 0;
  let blames = 0;
  for (let key = requestId ?? randomUUID(); left.length > 0; key = randomUUID()) {
    const input = { requestId: key, assignments: left.map((at) => batch[at]) };
    if (wait !== undefined) input.wait = wait;
    try {
      const answer = await call('notifyAssignment', input, effort);
      calls += answer.calls;
      const told = Array.isArray(answer.body.results) ? answer.body.results : [];
      left.forEach((at, n) => {
        results[at] = told[n] ? result(batch[at], told[n]) : failed(batch[at], { code: 'BAD_RESPONSE' });
      });
      return { results, error, calls };
    } catch (thrown) {
      error = thrown;
      calls += thrown.calls ?? 1;
      const bad = blamed(thrown, left.length);
      blames += 1;
      const out = bad === null || blames === BLAMED_MAX ? left : [left[bad]];
      for (const at of out) results[at] = failed(batch[at], thrown);
      left = left.filter((at) => !out.includes(at));
    }
  }
  return { results, error, calls };
}

/** After these the next batch would fare no better. */
const isGeneral = (error) => error !== null && !['INVALID_ARGUMENT', 'PAYLOAD_TOO_LARGE'].includes(error.code);

/** The key of one of several pieces. */
function keyOf(requestId, at) {
  const key = `${requestId}-${at}`;
  if (key.length <= KEY_LENGTH_MAX) return key;
  return `${createHash('sha256').update(String(requestId)).digest('base64url')}-${at}`;
}

/** Sends any number of prepared assignments. Never rejects. */
async function sendAll(call, list, { requestId, ...rest }) {
  const parts = batches(list);
  const total = { results: [], error: null, calls: 0 };
  for (const [at, batch] of parts.entries()) {
    if (isGeneral(total.error)) {
      total.results.push(...batch.map((one) => failed(one, total.error)));
      continue;
    }
    const key = requestId === undefined || parts.length === 1 ? requestId : keyOf(requestId, at);
    const sent = await sendBatch(call, batch, { ...rest, requestId: key });
    total.results.push(...sent.results);
    total.error = sent.error ?? total.error;
    total.calls += sent.calls;
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
