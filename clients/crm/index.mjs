// One implementation for both module systems, so that a program that uses both has one class and one queue.
import crm from './index.cjs';

export const { createClient, CrmError, sign, signedHeaders, signedEvent } = crm;
export default crm;
