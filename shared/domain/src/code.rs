//! The stable codes that programs branch on. A code is never renamed or re-used.

macro_rules! codes {
    ($( $variant:ident $text:literal $message:literal ),* $(,)?) => {
        /// Every code that can appear in a refusal's `code` field.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Code { $( #[doc = $message] $variant, )* }

        impl Code {
            /// All codes, in the order of the published table.
            pub const ALL: &'static [Code] = &[ $( Code::$variant, )* ];

            /// The code as it stands on the wire.
            pub fn as_str(self) -> &'static str {
                match self { $( Code::$variant => $text, )* }
            }

            /// The default message for the person holding the phone.
            pub fn message(self) -> &'static str {
                match self { $( Code::$variant => $message, )* }
            }
        }
    };
}

codes! {
    InvalidArgument "INVALID_ARGUMENT" "参数不正确",
    InvalidJson "INVALID_JSON" "请求内容不是有效的 JSON 对象",
    Unauthenticated "UNAUTHENTICATED" "请先登录",
    SignatureInvalid "SIGNATURE_INVALID" "签名无效",
    SessionExpired "SESSION_EXPIRED" "登录已过期，请重新登录",
    Forbidden "FORBIDDEN" "没有权限",
    UserBlocked "USER_BLOCKED" "账号已被停用",
    IdentityRequired "IDENTITY_REQUIRED" "请先完成实名认证",
    NotFound "NOT_FOUND" "没有找到",
    FunctionNotFound "FUNCTION_NOT_FOUND" "没有这个函数",
    CustomerNotFound "CUSTOMER_NOT_FOUND" "未找到匹配的客户记录",
    OrderNotFound "ORDER_NOT_FOUND" "订单不存在",
    ProductNotFound "PRODUCT_NOT_FOUND" "商品不存在或已下架",
    Conflict "CONFLICT" "数据已变化，请刷新后重试",
    IdempotencyKeyReused "IDEMPOTENCY_KEY_REUSED" "同一个 requestId 不能用于不同的请求",
    OrderStateInvalid "ORDER_STATE_INVALID" "订单当前状态不能进行此操作",
    OutOfStock "OUT_OF_STOCK" "库存不足",
    PhoneAlreadyLinked "PHONE_ALREADY_LINKED" "该手机号已关联其他用户",
    CustomerAlreadyLinked "CUSTOMER_ALREADY_LINKED" "该客户已关联其他用户",
    AlreadySignedUp "ALREADY_SIGNED_UP" "您已报名",
    AmountMismatch "AMOUNT_MISMATCH" "金额与当前价格不一致，请刷新后重试",
    PayloadTooLarge "PAYLOAD_TOO_LARGE" "请求内容过大",
    PrepaidInsufficient "PREPAID_INSUFFICIENT" "预存余额不足",
    PrepaidProductMismatch "PREPAID_PRODUCT_MISMATCH" "预存商品不匹配",
    PointsInsufficient "POINTS_INSUFFICIENT" "积分不足",
    CoinsInsufficient "COINS_INSUFFICIENT" "活动币不足",
    BalanceInsufficient "BALANCE_INSUFFICIENT" "余额不足",
    CouponNotApplicable "COUPON_NOT_APPLICABLE" "优惠券不可用",
    VerifyCodeInvalid "VERIFY_CODE_INVALID" "验证码不正确",
    VerifyCodeExpired "VERIFY_CODE_EXPIRED" "验证码已过期",
    IdCardInvalid "ID_CARD_INVALID" "身份证号码不正确",
    SignupClosed "SIGNUP_CLOSED" "不在报名时间内",
    QualificationInvalid "QUALIFICATION_INVALID" "购买资格无效",
    CustomerAmbiguous "CUSTOMER_AMBIGUOUS" "找到多个匹配的客户，请联系工作人员",
    RateLimited "RATE_LIMITED" "操作过于频繁，请稍后再试",
    UpstreamError "UPSTREAM_ERROR" "外部服务暂时不可用，请稍后再试",
    Unavailable "UNAVAILABLE" "服务繁忙，请稍后再试",
    Timeout "TIMEOUT" "处理超时，请稍后查看结果",
    Internal "INTERNAL" "系统错误，请稍后再试",
}

impl Code {
    /// Whether the same request may succeed when it is simply sent again later.
    pub fn retryable(self) -> bool {
        matches!(self, Code::RateLimited | Code::UpstreamError | Code::Unavailable | Code::Timeout)
    }
}

#[cfg(test)]
mod tests {
    use super::Code;

    #[test]
    fn codes_are_unique_and_upper_snake() {
        let mut seen = std::collections::BTreeSet::new();
        for code in Code::ALL {
            assert!(seen.insert(code.as_str()), "{} twice", code.as_str());
            assert!(code.as_str().bytes().all(|b| b.is_ascii_uppercase() || b == b'_'));
            assert!(!code.message().is_empty());
        }
    }
}
