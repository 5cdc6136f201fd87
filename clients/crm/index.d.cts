import type { MessagesInput, NotifyAssignmentInput, StaffInput, SubscriptionsInput } from './types';

export type { MessagesInput, NotifyAssignmentInput, StaffInput, SubscriptionsInput };

/** One assignment as the shop takes it, `assignedAt` also as a `Date`. Without one the time of the call is written down. */
export type Assignment = Omit<NonNullable<NotifyAssignmentInput['assignments']>[number], 'assignedAt'> & {
  assignedAt?: string | Date | null;
};

export interface CommonOptions {
  /** `id` of the key in the shop's `SERVICE_KEYS`; it needs the scope `notify`. */
  keyId: string;
  secret: string;
  /** For one try. 5000; through WeChat 8000. */
  timeoutMs?: number;
  /** How often a call is made again after it failed for the moment. 3. */
  retries?: number;
  /** The first pause; it doubles, with jitter. 300. */
  retryDelayMs?: number;
  /** The longest pause. A call that is told to wait longer fails. 30000. */
  retryDelayMaxMs?: number;
  /** Assignments that may be on their way in the background. 10000. */
  queueLimit?: number;
  /** As `retries`, in the background. 10. */
  queueRetries?: number;
  /** What gives way when the queue is full. `newest`. */
  dropPolicy?: 'newest' | 'oldest';
  /** Promises reject with a `CrmError` where they would give `ok: false`. */
  throwErrors?: boolean;
  /** Assignments of the background that were lost: dropped, or given up. They name customers; keep them out of logs. */
  onError?: (error: CrmError, assignments: Assignment[]) => void;
  /** What became of a batch of the background. */
  onResult?: (result: NotifyResult) => void;
}

/** Straight to the shop. */
export interface HttpOptions extends CommonOptions {
  /** The shop's address, such as `https://shop.example`. */
  baseUrl: string;
  /** The path that the shop sees, where a gateway in front of it changes the path. */
  signedPath?: (functionName: string) => string;
}

/** Through WeChat's `invokecloudfunction`, for a shop without an address of its own. */
export interface WechatOptions extends CommonOptions {
  /** The cloud environment's id. */
  env: string;
  appid?: string;
  appSecret?: string;
  /** Instead of `appid` and `appSecret`: gives a valid access token, and a new one when it is asked again. */
  getAccessToken?: () => string | Promise<string>;
  /** `https://api.weixin.qq.com`. */
  wechatBaseUrl?: string;
  /** Where the stable token comes from; `/cgi-bin/stable_token` at `wechatBaseUrl`. */
  tokenUrl?: string;
}

export type Options = HttpOptions | WechatOptions;

export interface Ok {
  ok: true;
  error: null;
  /** The shop's trace id. */
  requestId: string;
  /** How many tries it took. */
  attempts: number;
}

export interface Failed {
  ok: false;
  error: CrmError;
}

export interface AssignmentResult {
  customerId: string;
  /** `sent` to WeChat, `queued` in the shop, `refused` by it for good, or `failed`: it did not get through to the shop. */
  status: 'sent' | 'queued' | 'refused' | 'failed';
  /** Why it was refused or failed, such as `NO_SUBSCRIPTION`. */
  reason?: string | null;
  /** For `messages.get`. */
  messageId?: string | null;
}

export interface NotifyResult {
  /** Every assignment has an answer from the shop; it may be `refused`. */
  ok: boolean;
  sent: number;
  queued: number;
  refused: number;
  failed: number;
  /** One for each assignment, in their order. */
  results: AssignmentResult[];
  /** The last thing that went wrong. */
  error: CrmError | null;
  attempts: number;
}

export interface Try {
  at: string;
  outcome: string | null;
  reason: string | null;
  errcode: number | null;
  durationMs: number | null;
}

export interface Receipt {
  messageId: string;
  kind: string;
  template: string | null;
  openId: string | null;
  status: 'queued' | 'sent' | 'refused' | 'unknown' | 'dead';
  reason: string | null;
  message?: string | null;
  attempts: number;
  tries?: Try[];
  customerIds: string[];
  createdAt: string;
  nextAttemptAt: string | null;
  expiresAt: string | null;
  finishedAt: string | null;
  redrives: number;
}

export interface StaffMember {
  userId: string;
  name?: string | null;
  openId?: string | null;
  phone?: string | null;
  active: boolean;
}

export interface Page<T> {
  data: T[];
  nextCursor: string | null;
}

type Result<T> = (Ok & T) | Failed;
type ListResult<T> = (Ok & Page<T>) | (Failed & Page<never>);

export interface Client {
  /**
   * Tells the shop who was assigned to whom. Returns at once; the promise never rejects (unless `throwErrors`). Any number goes
   * in pieces of at most a hundred. The same assignment with the same `assignedAt` is never sent twice, however often it is told.
   */
  notifyAssignment(
    assignments: Assignment | readonly Assignment[],
    options?: { requestId?: string; wait?: boolean },
  ): Promise<NotifyResult>;
  /** The same, without an answer: put into a queue in memory. Says how many were taken. */
  notifyAssignmentInBackground(assignments: Assignment | readonly Assignment[]): number;
  /** How many are on their way in the background. */
  readonly pending: number;
  /** Waits until the queue is empty, at most 10 s unless told otherwise. */
  flush(options?: { timeoutMs?: number }): Promise<{ ok: boolean; pending: number }>;
  /** Takes nothing any more, waits as `flush` (5 s), and gives up the rest. Call it when the program ends. */
  close(options?: { timeoutMs?: number }): Promise<{ ok: boolean; pending: number }>;
  readonly messages: {
    list(filter?: Omit<MessagesInput, 'action' | 'messageId' | 'mayRepeat'>): Promise<ListResult<Receipt>>;
    get(messageId: string): Promise<Result<Receipt>>;
    /** Tries a dead message once more. One whose outcome is unknown needs `mayRepeat`: it may arrive twice. */
    redrive(messageId: string, options?: { mayRepeat?: boolean; requestId?: string }): Promise<Result<Receipt>>;
  };
  readonly staff: {
    upsert(member: Omit<StaffInput, 'action'>): Promise<Result<StaffMember>>;
    get(userId: string): Promise<Result<StaffMember>>;
    list(filter?: { limit?: number; after?: string }): Promise<ListResult<StaffMember>>;
  };
}

/** Throws a `TypeError` when the options are wrong. */
export function createClient(options: Options): Client;

export class CrmError extends Error {
  constructor(code: string, message?: string, more?: Partial<CrmError>);
  /** The shop's code, or `NETWORK`, `TIMEOUT`, `BAD_RESPONSE`, `INVALID_ARGUMENT`, `CLIENT_CLOSED`, `QUEUE_FULL`, `WECHAT_…`. */
  code: string;
  retryable: boolean;
  status?: number;
  details?: { field?: string; retryAfterSeconds?: number; [name: string]: unknown };
  requestId?: string;
  errcode?: number;
  attempts?: number;
  retryAfterSeconds?: number;
}

/** Lower-case hex of the signature; see docs/SIGNING.md. */
export function sign(secret: string, timestamp: string, nonce: string, method: string, path: string, body: string | Uint8Array): string;

export function signedHeaders(request: {
  keyId: string;
  secret: string;
  method?: string;
  path: string;
  body?: string | Uint8Array;
  now?: number;
  nonce?: string;
}): Record<'x-jinlu-key' | 'x-jinlu-timestamp' | 'x-jinlu-nonce' | 'x-jinlu-signature', string>;

export function signedEvent(event: {
  keyId: string;
  secret: string;
  name: string;
  payload: string;
  now?: number;
  nonce?: string;
}): Record<'key' | 'timestamp' | 'nonce' | 'payload' | 'signature', string>;
