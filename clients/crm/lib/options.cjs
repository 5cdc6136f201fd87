'use strict';

const wrong = (text) => new TypeError(`createClient: ${text}`);

/** Checks the options and fills in what was left out. Throws a TypeError, so that a wrong set-up shows when a program starts. */
function read(options) {
  if (typeof options !== 'object' || options === null) throw wrong('options are missing');
  const text = (name, given = options[name]) => {
    if (typeof given !== 'string' || given === '') throw wrong(`${name} must be a text`);
    return given;
  };
  const address = (name, given) => {
    const value = text(name, given).replace(/\/+$/, '');
    let url;
    try {
      url = new URL(value);
    } catch {
      throw wrong(`${name} is not an address`);
    }
    if (!['http:', 'https:'].includes(url.protocol)) throw wrong(`${name} must begin with https:// or http://`);
    if (url.username || url.password || url.search || url.hash) throw wrong(`${name} must have no user, query or fragment`);
    return value;
  };
  const number = (name, least, most, otherwise) => {
    const given = options[name] ?? otherwise;
    if (!Number.isFinite(given) || given < least || given > most) throw wrong(`${name} must be a number from ${least} to ${most}`);
    return given;
  };
  const handler = (name) => {
    const given = options[name] ?? undefined;
    if (given !== undefined && typeof given !== 'function') throw wrong(`${name} must be a function`);
    return given;
  };

  const overWechat = (options.env ?? undefined) !== undefined;
  if (overWechat && (options.baseUrl ?? undefined) !== undefined) throw wrong('give either baseUrl or env, not both');
  const common = {
    keyId: text('keyId'),
    secret: text('secret'),
    // WeChat itself gives a function up after five seconds.
    timeoutMs: number('timeoutMs', 1, 600_000, overWechat ? 8_000 : 5_000),
    retries: number('retries', 0, 100, 3),
    retryDelayMs: number('retryDelayMs', 0, 60_000, 300),
    retryDelayMaxMs: number('retryDelayMaxMs', 0, 3_600_000, 30_000),
    queueLimit: number('queueLimit', 1, 1_000_000, 10_000),
    queueRetries: number('queueRetries', 0, 1_000, 10),
    dropPolicy: options.dropPolicy ?? 'newest',
    throwErrors: options.throwErrors === true,
    onError: handler('onError'),
    onResult: handler('onResult'),
  };
  if (!['newest', 'oldest'].includes(common.dropPolicy)) throw wrong("dropPolicy must be 'newest' or 'oldest'");
  if (!overWechat) {
    return { ...common, via: 'http', baseUrl: address('baseUrl', options.baseUrl), signedPath: handler('signedPath') };
  }
  const wechatBaseUrl = address('wechatBaseUrl', options.wechatBaseUrl ?? 'https://api.weixin.qq.com');
  const getAccessToken = handler('getAccessToken');
  return {
    ...common,
    via: 'wechat',
    env: text('env'),
    wechatBaseUrl,
    tokenUrl: address('tokenUrl', options.tokenUrl ?? `${wechatBaseUrl}/cgi-bin/stable_token`),
    getAccessToken,
    appid: getAccessToken ? undefined : text('appid'),
    appSecret: getAccessToken ? undefined : text('appSecret'),
  };
}

module.exports = { read };
