// @cloudbase/node-sdk, as a server uses it: unchanged, redirected by its environment alone.

import { strict as assert } from 'node:assert';
import { test } from 'node:test';
import tcb from '@cloudbase/node-sdk';
import { CLOUD, ENV_ID, SECRET_ID, SECRET_KEY } from './cloud.mjs';
import { purchaseLoop } from './loop.mjs';

process.env.TCB_CONTEXT_CNFG = JSON.stringify({ URL: `${CLOUD}/admin` });
process.env.TENCENTCLOUD_SECRETID = SECRET_ID;
process.env.TENCENTCLOUD_SECRETKEY = SECRET_KEY;
process.env.TENCENTCLOUD_REGION = 'ap-shanghai';

const app = tcb.init({ env: ENV_ID });

purchaseLoop('node-sdk', async (name, data) => (await app.callFunction({ name, data })).result);

test('the request id of the transport is the function\'s', async () => {
  const { result, requestId } = await app.callFunction({ name: 'products', data: {} });
  assert.equal(result.requestId, requestId);
});

test('what the transport refuses is thrown', async () => {
  const call = (options, name = 'products') => tcb.init({ env: ENV_ID, ...options }).callFunction({ name, data: {} });
  await assert.rejects(call({ secretId: SECRET_ID, secretKey: 'wrong' }), { code: 'SIGN_PARAM_INVALID' });
  await assert.rejects(call({ secretId: 'AKIDother', secretKey: SECRET_KEY }), { code: 'SIGN_PARAM_INVALID' });
  await assert.rejects(call({ env: 'another-env' }), { code: 'INVALID_ENV' });
  await assert.rejects(call({}, 'noSuchFunction'), { code: 'FUNCTION_NOT_FOUND' });
  await assert.rejects(app.database().collection('orders').get(), { code: 'INVALID_PARAM' });
});
