import { createClient, CrmError, sign, signedEvent, signedHeaders } from './index.cjs';

export * from './index.cjs';

declare const crm: {
  readonly createClient: typeof createClient;
  readonly CrmError: typeof CrmError;
  readonly sign: typeof sign;
  readonly signedEvent: typeof signedEvent;
  readonly signedHeaders: typeof signedHeaders;
};
export default crm;
