//! `union hl_mem_args`: 40 bytes whose first words change meaning with the operation.

abi! {
    /// In and out arguments of [`super::IOCTL_MEMORY`]. Constructors fill a request; accessors name the words.
    pub struct MemArgs [40] {
        /// operation-dependent; the answer overwrites the first two
        words: [u64; 3] = 0,
        op: u32 = 24,
        flags: u32 = 28,
        ctx_id: u32 = 32,
        num_of_elements: u32 = 36,
    }
}

pub mod mem_op {
    pub const ALLOC: u32 = 0;
    pub const FREE: u32 = 1;
    pub const MAP: u32 = 2;
    pub const UNMAP: u32 = 3;
    pub const MAP_BLOCK: u32 = 4;
    pub const EXPORT_DMABUF_FD: u32 = 5;
    pub const TS_ALLOC: u32 = 6;
    /// out of tree
    pub const REG_DMABUF_FD: u32 = 99;
}

pub mod mem_flag {
    pub const CONTIGUOUS: u32 = 0x1;
    pub const SHARED: u32 = 0x2;
    pub const USERPTR: u32 = 0x4;
    pub const FORCE_HINT: u32 = 0x8;
    /// out of tree
    pub const ODP: u32 = 0x20;
    pub const PREFETCH: u32 = 0x40;
}

impl MemArgs {
    const fn new(op: u32, flags: u32, words: [u64; 3]) -> Self {
        Self {
            words,
            op,
            flags,
            ctx_id: 0,
            num_of_elements: 0,
        }
    }

    /// Allocate device memory; `page_size` 0 takes the default.
    pub const fn alloc(mem_size: u64, page_size: u64, flags: u32) -> Self {
        Self::new(mem_op::ALLOC, flags, [mem_size, page_size, 0])
    }

    pub const fn free(handle: u64) -> Self {
        Self::new(mem_op::FREE, 0, [handle, 0, 0])
    }

    /// Map device memory.
    pub const fn map_device(hint: u64, handle: u64, flags: u32) -> Self {
        Self::new(mem_op::MAP, flags & !mem_flag::USERPTR, [hint, handle, 0])
    }

    /// Pin and map memory of this process.
    pub const fn map_host(host_va: u64, hint: u64, size: u64, flags: u32) -> Self {
        Self::new(
            mem_op::MAP,
            flags | mem_flag::USERPTR,
            [host_va, hint, size],
        )
    }

    pub const fn unmap(device_va: u64) -> Self {
        Self::new(mem_op::UNMAP, 0, [device_va, 0, 0])
    }

    pub const fn map_block(block_addr: u64) -> Self {
        Self::new(mem_op::MAP_BLOCK, 0, [block_addr, 0, 0])
    }

    /// Export device memory; `fd_flags` are open(2) flags.
    pub const fn export_dmabuf(addr: u64, size: u64, offset: u64, fd_flags: u32) -> Self {
        Self::new(mem_op::EXPORT_DMABUF_FD, fd_flags, [addr, size, offset])
    }

    pub const fn ts_alloc(num_of_elements: u32) -> Self {
        let mut args = Self::new(mem_op::TS_ALLOC, 0, [0; 3]);
        args.num_of_elements = num_of_elements;
        args
    }

    pub const fn reg_dmabuf(fd: i32, length: u64) -> Self {
        Self::new(mem_op::REG_DMABUF_FD, 0, [fd as i64 as u64, length, 0])
    }

    pub const fn is_userptr(&self) -> bool {
        self.flags & mem_flag::USERPTR != 0
    }

    // ALLOC
    pub const fn mem_size(&self) -> u64 {
        self.words[0]
    }

    pub const fn page_size(&self) -> u64 {
        self.words[1]
    }

    /// Handle that FREE names.
    pub const fn free_handle(&self) -> u64 {
        self.words[0]
    }

    // MAP of device memory
    pub const fn map_device_hint(&self) -> u64 {
        self.words[0]
    }

    pub const fn map_device_handle(&self) -> u64 {
        self.words[1]
    }

    // MAP of host memory
    pub const fn host_va(&self) -> u64 {
        self.words[0]
    }

    pub const fn host_hint(&self) -> u64 {
        self.words[1]
    }

    pub const fn host_size(&self) -> u64 {
        self.words[2]
    }

    /// Address that UNMAP names, and the answer of MAP.
    pub const fn device_va(&self) -> u64 {
        self.words[0]
    }

    pub const fn block_addr(&self) -> u64 {
        self.words[0]
    }

    // EXPORT_DMABUF_FD
    pub const fn export_addr(&self) -> u64 {
        self.words[0]
    }

    pub const fn export_size(&self) -> u64 {
        self.words[1]
    }

    pub const fn export_offset(&self) -> u64 {
        self.words[2]
    }

    // REG_DMABUF_FD
    pub const fn reg_fd(&self) -> i32 {
        self.words[0] as i32
    }

    pub const fn reg_length(&self) -> u64 {
        self.words[1]
    }

    /// Answer of ALLOC, MAP_BLOCK and TS_ALLOC.
    pub const fn handle(&self) -> u64 {
        self.words[0]
    }

    /// Second answer of MAP_BLOCK.
    pub const fn block_size(&self) -> u32 {
        self.words[1] as u32
    }

    /// Answer of EXPORT_DMABUF_FD.
    pub const fn fd(&self) -> i32 {
        self.words[0] as i32
    }

    /// Answers overlay the request: 16 bytes are written, the rest of the union stays.
    pub const fn set_handle(&mut self, handle: u64) {
        self.words[0] = handle;
        self.words[1] = 0;
    }

    pub const fn set_device_va(&mut self, device_va: u64) {
        self.set_handle(device_va);
    }

    pub const fn set_block(&mut self, handle: u64, size: u32) {
        self.words[0] = handle;
        self.words[1] = size as u64;
    }

    pub const fn set_fd(&mut self, fd: i32) {
        self.words[0] = fd as u32 as u64;
        self.words[1] = 0;
    }
}
