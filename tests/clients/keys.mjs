// What the simulated WeChat Pay and its one merchant know.

import { readFileSync } from 'node:fs';

/** What this merchant and the simulated WeChat Pay share. Test keys only; see the README beside the files. */
export const pay = {
  appid: 'wxlocal0000000001',
  mchid: '1900000001',
  apiV3Key: 'local-apiv3-key-0123456789abcdef',
  merchantSerial: '4A494E4C550000000000000000000000000000A1',
  publicKeyId: 'PUB_KEY_ID_0119000000012026112100000000000001',
  platformSerial: '4A494E4C550000000000000000000000000000B2',
  unknownSerial: '4A494E4C550000000000000000000000000000FF',
};

/** A PEM of the simulators. */
export function pem(name) {
  return readFileSync(new URL(`../simulators/src/keys/${name}.pem`, import.meta.url), 'utf8');
}
