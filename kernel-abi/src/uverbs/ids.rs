//! Object, method and attribute ids of the uverbs ioctl, grouped as object -> method -> attributes.

/// Object ids (`enum uverbs_default_objects`).
pub mod obj {
    pub const DEVICE: u16 = 0;
    pub const PD: u16 = 1;
    pub const COMP_CHANNEL: u16 = 2;
    pub const CQ: u16 = 3;
    pub const QP: u16 = 4;
    pub const SRQ: u16 = 5;
    pub const AH: u16 = 6;
    pub const MR: u16 = 7;
    pub const MW: u16 = 8;
    pub const FLOW: u16 = 9;
    pub const XRCD: u16 = 10;
    pub const RWQ_IND_TBL: u16 = 11;
    pub const WQ: u16 = 12;
    pub const FLOW_ACTION: u16 = 13;
    pub const DM: u16 = 14;
    pub const COUNTERS: u16 = 15;
    pub const ASYNC_EVENT: u16 = 16;
    /// rdma-core 59
    pub const DMAH: u16 = 17;
    /// rdma-core 62
    pub const DMABUF: u16 = 18;
    /// rdma-core 65
    pub const COMP_CNTR: u16 = 19;
}

/// Numbers consecutive ids from zero.
macro_rules! attrs {
    ($( $(#[$m:meta])* $module:ident { $($name:ident),* $(,)? } )*) => { $(
        $(#[$m])*
        pub mod $module { attrs!(@n 0u16; $($name,)*); }
    )* };
    (@n $n:expr; $name:ident, $($rest:ident,)*) => {
        pub const $name: u16 = $n;
        attrs!(@n $n + 1; $($rest,)*);
    };
    (@n $n:expr;) => {};
}

pub mod device {
    pub const INVOKE_WRITE: u16 = 0;
    pub const INFO_HANDLES: u16 = 1;
    pub const QUERY_PORT: u16 = 2;
    pub const GET_CONTEXT: u16 = 3;
    pub const QUERY_CONTEXT: u16 = 4;
    pub const QUERY_GID_TABLE: u16 = 5;
    pub const QUERY_GID_ENTRY: u16 = 6;
    /// rdma-core 62
    pub const QUERY_PORT_SPEED: u16 = 7;
    /// rdma-core 65
    pub const QUERY_COMP_CNTR_CAPS: u16 = 8;

    attrs! {
        invoke_write { CORE_IN, CORE_OUT, WRITE_CMD }
        info_handles { OBJECT_ID, TOTAL_HANDLES, HANDLES_LIST }
        query_port { PORT_NUM, RESP }
        /// `FD_ARR` came with rdma-core 65.
        get_context { NUM_COMP_VECTORS, CORE_SUPPORT, FD_ARR }
        query_context { NUM_COMP_VECTORS, CORE_SUPPORT }
        query_gid_table { ENTRY_SIZE, FLAGS, RESP_ENTRIES, RESP_NUM_ENTRIES }
        query_gid_entry { PORT, GID_INDEX, FLAGS, RESP_ENTRY }
        query_port_speed { PORT_NUM, RESP }
    }
}

pub mod pd {
    pub const DESTROY: u16 = 0;
    attrs! { destroy { HANDLE } }
}

pub mod cq {
    pub const CREATE: u16 = 0;
    pub const DESTROY: u16 = 1;
    attrs! {
        /// Buffer attributes came with rdma-core 59, `BUFFER_UMEM` with 64.
        create {
            HANDLE, CQE, USER_HANDLE, COMP_CHANNEL, COMP_VECTOR, FLAGS, RESP_CQE, EVENT_FD,
            BUFFER_VA, BUFFER_LENGTH, BUFFER_FD, BUFFER_OFFSET, BUFFER_UMEM,
        }
        destroy { HANDLE, RESP }
    }
}

pub mod qp {
    pub const CREATE: u16 = 0;
    pub const DESTROY: u16 = 1;
    /// rdma-core 65
    pub const ATTACH_COMP_CNTR: u16 = 2;
    attrs! {
        /// The three UMEM attributes came with rdma-core 64.
        create {
            HANDLE, XRCD_HANDLE, PD_HANDLE, SRQ_HANDLE, SEND_CQ_HANDLE, RECV_CQ_HANDLE, IND_TABLE_HANDLE, USER_HANDLE,
            CAP, TYPE, FLAGS, SOURCE_QPN, EVENT_FD, RESP_CAP, RESP_QP_NUM, UMEM_0, UMEM_1, UMEM_2,
        }
        destroy { HANDLE, RESP }
    }
}

pub mod srq {
    pub const CREATE: u16 = 0;
    pub const DESTROY: u16 = 1;
    attrs! {
        create {
            HANDLE, PD_HANDLE, XRCD_HANDLE, CQ_HANDLE, USER_HANDLE, MAX_WR, MAX_SGE, LIMIT, MAX_NUM_TAGS, TYPE,
            EVENT_FD, RESP_MAX_WR, RESP_MAX_SGE, RESP_SRQ_NUM,
        }
        destroy { HANDLE, RESP }
    }
}

pub mod ah {
    pub const DESTROY: u16 = 0;
    attrs! { destroy { HANDLE } }
}

pub mod mr {
    pub const DM_REG: u16 = 0;
    pub const DESTROY: u16 = 1;
    pub const ADVISE: u16 = 2;
    pub const QUERY: u16 = 3;
    pub const REG_DMABUF: u16 = 4;
    /// rdma-core 59
    pub const REG: u16 = 5;
    attrs! {
        dm_reg { HANDLE, OFFSET, LENGTH, PD_HANDLE, ACCESS_FLAGS, DM_HANDLE, RESP_LKEY, RESP_RKEY }
        destroy { HANDLE }
        advise { PD_HANDLE, ADVICE, FLAGS, SGE_LIST }
        query { HANDLE, RESP_LKEY, RESP_RKEY, RESP_LENGTH, RESP_IOVA }
        reg_dmabuf { HANDLE, PD_HANDLE, OFFSET, LENGTH, IOVA, FD, ACCESS_FLAGS, RESP_LKEY, RESP_RKEY }
        reg {
            HANDLE, PD_HANDLE, DMA_HANDLE, IOVA, ADDR, LENGTH, ACCESS_FLAGS, FD, FD_OFFSET, RESP_LKEY, RESP_RKEY,
        }
    }
}

pub mod mw {
    pub const DESTROY: u16 = 0;
    attrs! { destroy { HANDLE } }
}

pub mod flow {
    pub const DESTROY: u16 = 0;
    attrs! { destroy { HANDLE } }
}

pub mod xrcd {
    pub const DESTROY: u16 = 0;
    attrs! { destroy { HANDLE } }
}

pub mod rwq_ind_tbl {
    pub const DESTROY: u16 = 0;
    attrs! { destroy { HANDLE } }
}

pub mod wq {
    pub const CREATE: u16 = 0;
    pub const DESTROY: u16 = 1;
    attrs! {
        create {
            HANDLE, PD_HANDLE, CQ_HANDLE, USER_HANDLE, TYPE, EVENT_FD, MAX_WR, MAX_SGE, FLAGS,
            RESP_MAX_WR, RESP_MAX_SGE, RESP_WQ_NUM,
        }
        destroy { HANDLE, RESP }
    }
}

pub mod flow_action {
    pub const ESP_CREATE: u16 = 0;
    pub const DESTROY: u16 = 1;
    pub const ESP_MODIFY: u16 = 2;
    attrs! {
        esp { HANDLE, ATTRS, ESN, KEYMAT, REPLAY, ENCAP }
        destroy { HANDLE }
    }
}

pub mod dm {
    pub const ALLOC: u16 = 0;
    pub const FREE: u16 = 1;
    attrs! {
        alloc { HANDLE, LENGTH, ALIGNMENT }
        free { HANDLE }
    }
}

pub mod counters {
    pub const CREATE: u16 = 0;
    pub const DESTROY: u16 = 1;
    pub const READ: u16 = 2;
    attrs! {
        create { HANDLE }
        destroy { HANDLE }
        read { HANDLE, BUFF, FLAGS }
    }
}

pub mod async_event {
    pub const ALLOC: u16 = 0;
    attrs! { alloc { FD_HANDLE } }
}

/// rdma-core 59
pub mod dmah {
    pub const ALLOC: u16 = 0;
    pub const FREE: u16 = 1;
}

/// rdma-core 62
pub mod dmabuf {
    pub const ALLOC: u16 = 0;
}

/// rdma-core 65
pub mod comp_cntr {
    pub const CREATE: u16 = 0;
    pub const DESTROY: u16 = 1;
    pub const MODIFY: u16 = 2;
    pub const READ: u16 = 3;
}
