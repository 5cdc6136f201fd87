'use strict';

/**
 * A promise that keeps the process alive while somebody waits for it, and only then. Timers and connections of this module
 * never do: a call that nobody awaits must not hold up the end of a program, and one that is awaited must not be cut off by it.
 */
class Pending extends Promise {
  #settled = false;
  #hold = null;

  static get [Symbol.species]() {
    return Promise;
  }

  static of(work) {
    const pending = new Pending((resolve) => resolve(work));
    const release = () => {
      pending.#settled = true;
      clearInterval(pending.#hold);
    };
    // Not through `then` below: this one is no waiter.
    work.then(release, release);
    return pending;
  }

  then(onFulfilled, onRejected) {
    if (!this.#settled && this.#hold === null) this.#hold = setInterval(() => {}, 2 ** 30);
    return super.then(onFulfilled, onRejected);
  }
}

/** Waits without keeping the process alive. Ends early when `signal` is aborted. */
const sleep = (ms, signal) =>
  new Promise((resolve) => {
    if (signal.aborted) return resolve();
    const end = () => {
      clearTimeout(timer);
      signal.removeEventListener('abort', end);
      resolve();
    };
    const timer = setTimeout(end, ms);
    timer.unref();
    signal.addEventListener('abort', end, { once: true });
  });

module.exports = { Pending, sleep };
