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
  /** Promises reject with a `CrmError` where they would give `ok: false`; that of `notifyAssignment` carries the `results`. */
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
  /**
   * Instead of `appid` and `appSecret`: gives the access token that is valid at present; asked once for all calls that wait, and
   * again for later ones. `renew` is true when WeChat has just refused the one it gave: only then a new one is needed. It has
   * `timeoutMs` to answer; a rejection counts as a failure for the moment.
   */
  getAccessToken?: (about: { renew: boolean }) => string | Promise<string>;
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
  /** How often the shop was asked for it. */
  calls: number;
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
  /** A text message takes its place, where the shop has that switched on. */
  via?: 'sms';
  /** The time that was written down for it. Whoever tells it again with this time tells the same assignment. */
  assignedAt?: string;
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
  /** How often the shop was asked. */
  calls: number;
}

export interface Try {
  at: string;
  /** Null while it is under way, or when the process died in it. */
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
  orderId?: string | null;
  status: 'queued' | 'sent' | 'refused' | 'unknown' | 'dead';
  reason: string | null;
  /** The reason, for people. */
  message?: string | null;
  /** Tries of the shop to deliver it. */
  attempts: number;
  /** The last thirty. */
  tries?: Try[];
  /** The customers that it tells of. */
  customerIds?: string[];
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
  createdAt: string;
  updatedAt: string;
}

export interface Page<T> {
  data: T[];
  nextCursor: string | null;
}

export type Result<T> = (Ok & T) | Failed;
export type ListResult<T> = (Ok & Page<T>) | (Failed & Page<never>);

export interface Client {
  /**
   * Tells the shop who was assigned to whom. Returns at once; the promise never rejects (unless `throwErrors`). Any number goes
   * in pieces of at most a hundred. The same assignment with the same `assignedAt` is never sent twice, however often it is told;
   * each result has it. With a `requestId` of your own nothing is added, so that a repeat has the same text: give `assignedAt`, too.
   */
  notifyAssignment(
    assignments: Assignment | readonly Assignment[],
    options?: { requestId?: string | null; wait?: boolean | null } | null,
  ): Promise<NotifyResult>;
  /** The same, without an answer: put into a queue in memory. Says how many were taken. */
  notifyAssignmentInBackground(assignments: Assignment | readonly Assignment[]): number;
  /** How many are on their way in the background. */
  readonly pending: number;
  /** Waits until the queue is empty, at most 10 s unless told otherwise. */
  flush(options?: { timeoutMs?: number } | null): Promise<{ ok: boolean; pending: number }>;
  /** Takes nothing any more, waits as `flush` (5 s), and gives up the rest. Call it when the program ends. */
  close(options?: { timeoutMs?: number } | null): Promise<{ ok: boolean; pending: number }>;
  /**
   * Any other function of the shop that the key has the scope for, such as `addPoints`. A `requestId` is added where there is
   * none, so that a retry takes effect once.
   */
  call(functionName: string, input?: Record<string, unknown> | null): Promise<Result<Record<string, unknown>>>;
  readonly messages: {
    list(filter?: Omit<MessagesInput, 'action' | 'messageId' | 'mayRepeat'> | null): Promise<ListResult<Receipt>>;
    get(messageId: string): Promise<Result<Receipt>>;
    /** Tries a dead message once more. One whose outcome is unknown needs `mayRepeat`: it may arrive twice. */
    redrive(messageId: string, options?: { mayRepeat?: boolean | null; requestId?: string | null } | null): Promise<Result<Receipt>>;
  };
  readonly staff: {
    upsert(member: Omit<StaffInput, 'action'>): Promise<Result<StaffMember>>;
    get(userId: string): Promise<Result<StaffMember>>;
    list(filter?: { limit?: number; after?: string } | null): Promise<ListResult<StaffMember>>;
  };
}

/** Throws a `TypeError` when the options are wrong. */
export function createClient(options: Options): Client;

export class CrmError extends Error {
  constructor(code: string, message?: string, more?: Partial<CrmError>);
  /**
   * The shop's code, or `NETWORK`, `TIMEOUT`, `BAD_RESPONSE`, `INVALID_ARGUMENT`, `CLIENT_CLOSED`, `QUEUE_FULL`, `WECHAT_…`;
   * `UNKNOWN` for a refusal without a code, and `CLIENT_ERROR` where the call could not be made at all, such as after
   * `signedPath` threw.
   */
  code: string;
  retryable: boolean;
  status?: number;
  details?: { field?: string; retryAfterSeconds?: number; [name: string]: unknown };
  requestId?: string;
  errcode?: number;
  /** How often the shop was asked. */
  calls?: number;
  retryAfterSeconds?: number;
  /** With `throwErrors`, of `notifyAssignment`: what became of each assignment. Not enumerable, so that logs do not show it. */
  results?: AssignmentResult[];
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
