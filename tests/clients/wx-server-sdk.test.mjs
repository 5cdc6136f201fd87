// wx-server-sdk, as a cloud function uses it: redirected by the option it hands on.

import { strict as assert } from 'node:assert';
import { test } from 'node:test';
import cloud from 'wx-server-sdk';
import { CLOUD, ENV_ID, SECRET_ID, SECRET_KEY } from './cloud.mjs';
import { purchaseLoop } from './loop.mjs';

process.env.TENCENTCLOUD_REGION = 'ap-shanghai';
const options = { env: ENV_ID, secretId: SECRET_ID, secretKey: SECRET_KEY, serviceUrl: `${CLOUD}/admin` };
cloud.init(options);

purchaseLoop('wx-server-sdk', async (name, data) => {
  const reply = await cloud.callFunction({ name, data });
  assert.equal(reply.errMsg, 'callFunction:ok');
  assert.equal(reply.result.requestId, reply.requestID);
  return reply.result;
});

test('what the transport refuses is thrown', async () => {
  await assert.rejects(cloud.callFunction({ name: 'noSuchFunction', data: {} }), {
    errCode: -1,
    code: 'FUNCTION_NOT_FOUND',
    errMsg: /^callFunction:fail /,
  });
  const stranger = cloud.createNewInstance({ ...options, secretKey: 'wrong' });
  await assert.rejects(stranger.callFunction({ name: 'products', data: {} }), { code: 'SIGN_PARAM_INVALID' });
});
