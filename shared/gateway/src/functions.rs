//! The one list of all functions.

use edge::Function;

/// Every function of the bundle, in the order in which the page shows them.
pub fn functions() -> Vec<Function> {
    vec![
        login::function(),
        products::function(),
        cart::function(),
        addresses::function(),
        generate_order_id::function(),
        submit_order::function(),
        wx_pay::function(),
        pay_callback::function(),
        orders::function(),
        get_user_points::function(),
        add_points::function(),
        stock::function(),
        freight::function(),
        delete_product::function(),
        prepaid::function(),
        add_prestore::function(),
        update_prepaid_balance::function(),
        update_prepaid_product::function(),
        send_sms::function(),
        link_user_to_customer::function(),
        customers::function(),
        coupons::function(),
        coupon_admin::function(),
        lottery::function(),
        lottery_admin::function(),
        coins::function(),
        points_mall::function(),
        verify_identity::function(),
        notify_assignment::function(),
        subscriptions::function(),
        staff::function(),
        messages::function(),
        close_expired_orders::function(),
        reconcile_payments::function(),
        settle_stock_markers::function(),
        deliver_outbox::function(),
        lottery_draw::function(),
        expire_coins::function(),
        expire_coupons::function(),
        seal_ledger::function(),
    ]
}
