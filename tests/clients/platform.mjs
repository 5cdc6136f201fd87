// Calls a packaged event function the way the platform does: one folder, one instance, `index.main(event, context)`.
// A line of JSON on standard input is a call `{event, context}` or a signal for the binary `{signal}`; a line comes back for each.

import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import path from 'node:path';
import process from 'node:process';
import { createInterface } from 'node:readline';

const [, , folder] = process.argv;
const started = process.hrtime.bigint();
const { main } = createRequire(import.meta.url)(path.join(folder, 'index.js'));

function children() {
  return readFileSync(`/proc/self/task/${process.pid}/children`, 'utf8').trim().split(' ').filter(Boolean).map(Number);
}

async function run({ event, context, signal }) {
  if (signal) {
    const pids = children();
    pids.forEach((pid) => process.kill(pid, signal));
    return { signalled: pids.length };
  }
  try {
    const result = await main(event, context);
    return { result, sinceStartMs: Number(process.hrtime.bigint() - started) / 1e6 };
  } catch (error) {
    return { error: error.message };
  }
}

let open = 0;
let ended = false;
const lines = createInterface({ input: process.stdin });
lines.on('line', async (line) => {
  open += 1;
  const call = JSON.parse(line);
  process.stdout.write(`${JSON.stringify({ id: call.id, ...(await run(call)) })}\n`);
  open -= 1;
  if (ended && open === 0) process.exit(0);
});
lines.on('close', () => {
  ended = true;
  if (open === 0) process.exit(0);
});
