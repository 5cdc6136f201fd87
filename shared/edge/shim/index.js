'use strict';
// The event flavour of a function: CloudBase calls `main`, and the static binary beside this file answers.
//
// One child lives as long as this instance. Calls and answers are lines of JSON on its standard input and output; its logs go
// to standard error. It is started when this file is loaded, so that a cold start pays for it before the first event. When it
// dies, the calls that it held are answered with UNAVAILABLE, which is retryable, and the next call starts another.

const { spawn } = require('node:child_process');
const { randomBytes } = require('node:crypto');
const path = require('node:path');
const readline = require('node:readline');

const BINARY = path.join(__dirname, 'main');
/** How long the binary may take to say that it is ready. */
const START_MS = 10000;
/** The answer is given this long before the platform would cut the call off. */
const MARGIN_MS = 500;
/** Where the platform does not say how long a call may take. */
const LIMIT_MS = 15000;

/** What the platform says about a call and the binary wants to know. Other variables hold credentials. */
const TOLD = ['WX_OPENID', 'WX_UNIONID', 'WX_APPID', 'TCB_SOURCE', 'TCB_UUID', 'LOGINTYPE', 'TRIGGER_SRC'];

let child = null;

class Child {
  constructor() {
    this.waiting = new Map();
    this.count = 0;
    this.dead = false;
    this.process = spawn(BINARY, [], {
      env: { ...process.env, JINLU_HOST: 'event' },
      stdio: ['pipe', 'pipe', 'inherit'],
    });
    this.ready = new Promise((resolve, reject) => {
      const timer = setTimeout(() => this.end(new Error(`the binary was not ready within ${START_MS} ms`)), START_MS);
      this.failed = (error) => {
        clearTimeout(timer);
        reject(error);
      };
      this.started = () => {
        clearTimeout(timer);
        resolve();
      };
    });
    // Whoever calls waits for it; without a caller yet a failure must not end this process.
    this.ready.catch(() => {});
    this.process.on('error', (error) => this.end(new Error(`the binary could not be started: ${error.code}`)));
    this.process.on('exit', (code, signal) => this.end(new Error(`the binary ended: ${signal || code}`)));
    this.process.stdin.on('error', () => this.end(new Error('the binary does not read any more')));
    readline.createInterface({ input: this.process.stdout, crlfDelay: Infinity }).on('line', (line) => this.heard(line));
  }

  heard(line) {
    let message;
    try {
      message = JSON.parse(line);
    } catch {
      this.end(new Error('the binary wrote something that is no answer'));
      return;
    }
    if (message.ready) {
      this.started();
      return;
    }
    const answer = this.waiting.get(message.id);
    this.waiting.delete(message.id);
    if (answer) answer(message.body);
  }

  /** The answer, or null if this child ended without one. */
  ask(call) {
    return new Promise((resolve) => {
      if (this.dead) {
        resolve(null);
        return;
      }
      this.count += 1;
      this.waiting.set(this.count, resolve);
      this.process.stdin.write(`${JSON.stringify({ id: this.count, ...call })}\n`);
    });
  }

  /** Nothing more will come from this child. */
  end(error) {
    if (this.dead) return;
    this.dead = true;
    if (child === this) child = null;
    this.failed(error);
    this.process.kill('SIGKILL');
    if (this.waiting.size > 0) console.error(JSON.stringify({ level: 'ERROR', message: error.message }));
    for (const answer of this.waiting.values()) answer(null);
    this.waiting.clear();
  }
}

function current() {
  if (!child) child = new Child();
  return child;
}

/** The variables of this call. Those of the process count only where the call has none: they may be of an earlier call. */
function told(context) {
  let given = null;
  if (context.environment) {
    given = typeof context.environment === 'string' ? JSON.parse(context.environment) : context.environment;
  } else if (context.environ) {
    given = {};
    for (const pair of context.environ.split(';')) {
      const at = pair.indexOf('=');
      if (at > 0) given[pair.slice(0, at)] = pair.slice(at + 1);
    }
  }
  const source = given || process.env;
  const found = {};
  for (const name of TOLD) {
    if (source[name]) found[name] = String(source[name]);
  }
  return found;
}

function refusal(code, message, requestId) {
  return { success: false, code, message, requestId, retryable: true };
}

exports.main = async function main(event, context) {
  const about = context || {};
  const requestId = about.request_id || about.requestId || randomBytes(16).toString('hex');
  const limit = Number(about.time_limit_in_ms) || LIMIT_MS;
  const remainingMs = Math.max(limit - MARGIN_MS, 100);
  const until = Date.now() + remainingMs;
  const asked = current();

  let timer;
  const timeout = new Promise((resolve) => {
    timer = setTimeout(resolve, remainingMs, 'timeout');
  });
  try {
    // A binary that cannot start is a failure of the deployment: the platform's own error form is right for it.
    if ((await Promise.race([asked.ready, timeout])) === 'timeout') return refusal('TIMEOUT', '服务启动超时，请稍后重试', requestId);
    const call = {
      event: JSON.stringify(event === undefined || event === null ? {} : event),
      context: told(about),
      requestId,
      remainingMs: Math.max(until - Date.now(), 1),
    };
    const answer = await Promise.race([asked.ask(call), timeout]);
    if (answer === 'timeout') {
      // It has its own limits and keeps to them; one that does not is of no use to the next call either.
      asked.end(new Error('the binary did not answer in time'));
      return refusal('TIMEOUT', '处理超时，请稍后重试', requestId);
    }
    return answer === null ? refusal('UNAVAILABLE', '服务暂时不可用，请稍后重试', requestId) : answer;
  } finally {
    clearTimeout(timer);
  }
};

// The cold start.
current();
