/* A libibverbs of any release, as far as a provider sees one while it registers and opens a device.
 * -DABI=.. -DSLOTS=.. (op table) -DQP=.. (offset of verbs_qp.comp_mask) -DCONTEXT=.. (size of verbs_context) */
#include <stdint.h>
#include <stdlib.h>
#include <unistd.h>

#define JOIN_(a, b) a##b
#define JOIN(a, b) JOIN_(a, b)

static const void *driver;
static int registered, released;

void JOIN(verbs_register_driver_, ABI)(const void *ops)
{
	driver = ops;
	registered++;
}

void *ibv_qp_to_qp_ex(void *qp)
{
	return *(uint32_t *)((char *)qp + QP) & 2 ? qp : NULL;
}

static char *ibv_context(void *vctx)
{
	return (char *)vctx + CONTEXT - 328;
}

void verbs_set_ops(void *vctx, const uintptr_t *ops)
{
	uintptr_t *priv = *(uintptr_t **)(ibv_context(vctx) - 112);

	for (int i = 0; i < SLOTS; i++)
		if (ops[i])
			priv[3 + i] = ops[i];
}

void *_verbs_init_and_alloc_context(void *device, int cmd_fd, size_t size, size_t offset, uint32_t driver_id)
{
	char *base = calloc(1, size);
	char *ctx = ibv_context(base + offset);

	(void)driver_id;
	*(size_t *)(ctx - 8) = SZ;
	*(void **)(ctx - 112) = calloc(1, 4096);
	*(void **)ctx = device;
	*(int *)(ctx + 264) = cmd_fd;
	*(int *)(ctx + 268) = -1;
	return base;
}

void verbs_uninit_context(void *vctx)
{
	char *ctx = ibv_context(vctx);

	free(*(void **)(ctx - 112));
	close(*(int *)(ctx + 264));
	if (*(int *)(ctx + 268) != -1)
		close(*(int *)(ctx + 268));
	released++;
}

int double_registered(void)
{
	return registered;
}

int double_released(void)
{
	return released;
}

const void *double_driver(void)
{
	return driver;
}
