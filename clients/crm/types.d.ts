// Made by `jinlu types` from the functions' JSON Schemas. Do not edit.

/** One customer assigned to one person. */
export interface NotifyAssignmentEntry {
  /** ISO 8601 with its zone. With it the assignment is told once for good, without it once in ten minutes. */
  assignedAt?: string | null;
  assignedByName?: string | null;
  assignedToOpenId?: string | null;
  /** Either this, an id of `staff`, or `assignedToOpenId`. */
  assignedToUserId?: string | null;
  customerId: string;
  /** Any script, emoji included; up to 200 characters. What a template's field cannot hold is cut off. */
  customerName: string;
  /** As the template shows it; not checked. */
  customerPhone?: string | null;
  remark?: string | null;
  source?: string | null;
}

export interface NotifyAssignmentInput {
  assignedAt?: string | null;
  assignedByName?: string | null;
  assignedToOpenId?: string | null;
  assignedToUserId?: string | null;
  /** 1 to 100; or the fields of a single one beside it. */
  assignments?: NotifyAssignmentEntry[] | null;
  customerId?: string | null;
  customerName?: string | null;
  customerPhone?: string | null;
  remark?: string | null;
  source?: string | null;
  /** False = answer as soon as everything is planned, without a first try. */
  wait?: boolean | null;
}

export type MessagesAction = "list" | "get" | "redrive";

export type MessagesKind = "message" | "massMessage" | "sms" | "refund" | "afterSaleRefund" | "shippingReport" | "parcelSubscription" | "reviewCheck";

export type MessagesStatus = "queued" | "sent" | "refused" | "unknown" | "dead";

export interface MessagesInput {
  action: MessagesAction;
  /** For `list`: `nextCursor` of the page before. */
  after?: string | null;
  /** Messages about the assignment of this customer. */
  customerId?: string | null;
  kind?: MessagesKind | null;
  /** For `list`: 1 to 100, 20 unless given. */
  limit?: number | null;
  /** For `redrive`: also a message that may have arrived. */
  mayRepeat?: boolean | null;
  /** For `get` and `redrive`. */
  messageId?: string | null;
  openId?: string | null;
  /** For `list`, as the other filters. */
  status?: MessagesStatus | null;
}

export type StaffAction = "upsert" | "get" | "list";

export interface StaffInput {
  action: StaffAction;
  /** For `upsert`: false = gets no messages; true for somebody new unless given. */
  active?: boolean | null;
  /** For `list`: `nextCursor` of the page before. */
  after?: string | null;
  /** For `list`: 1 to 100, 20 unless given. */
  limit?: number | null;
  /** For `upsert`; needed for somebody new. */
  name?: string | null;
  /** For `upsert`: the person in the mini-program; empty takes it away. */
  openId?: string | null;
  /** For `upsert`: a mainland mobile number; empty takes it away. */
  phone?: string | null;
  /** For `upsert` and `get`: the CRM's id of the person. */
  userId?: string | null;
}

export type SubscriptionsAction = "report" | "status";

/** What the user answered. */
export type SubscriptionsAnswer = "accept" | "reject" | "ban";

export interface SubscriptionsInput {
  action: SubscriptionsAction;
  /** For `report`: what `wx.requestSubscribeMessage` gave for each template id; at most 20. */
  results?: { [name: string]: SubscriptionsAnswer } | null;
}
