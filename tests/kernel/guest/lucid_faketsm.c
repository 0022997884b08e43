// SPDX-License-Identifier: GPL-2.0
/*
 * A provider for the kernel's configfs-tsm that has no hardware: user space makes the quotes.
 *
 * /dev/lucid-faketsm: each read waits for a request (u32 privilege level, 64 bytes of report
 * data); the write after it answers (s32 errno or 0, u32 length of the quote, u32 length of the
 * certificates, then both).
 */
#include <linux/completion.h>
#include <linux/fs.h>
#include <linux/miscdevice.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/slab.h>
#include <linux/tsm.h>
#include <linux/uaccess.h>

#define REPORT_DATA 64
#define LARGEST 0x10000

static char *provider = "sev_guest";
module_param(provider, charp, 0444);
static uint floor;
module_param(floor, uint, 0444);

struct request {
	u32 privlevel;
	u8 data[REPORT_DATA];
} __packed;

struct answer {
	s32 error;
	u32 quote_len;
	u32 aux_len;
} __packed;

static DEFINE_MUTEX(turn);
static DECLARE_COMPLETION(asked);
static DECLARE_COMPLETION(answered);
static struct request request;
static struct answer answer;
static u8 *quote, *aux;

static bool is_snp(void)
{
	return !strcmp(provider, "sev_guest");
}

static int report_new(struct tsm_report *report, void *data)
{
	int error;

	if (report->desc.inblob_len != REPORT_DATA)
		return -EINVAL;
	mutex_lock(&turn);
	request.privlevel = report->desc.privlevel;
	memcpy(request.data, report->desc.inblob, REPORT_DATA);
	reinit_completion(&answered);
	complete(&asked);
	if (!wait_for_completion_timeout(&answered, 600 * HZ)) {
		error = -ETIMEDOUT;
	} else {
		error = -answer.error;
		report->outblob = quote;
		report->outblob_len = answer.quote_len;
		report->auxblob = aux;
		report->auxblob_len = answer.aux_len;
		quote = aux = NULL;
	}
	mutex_unlock(&turn);
	return error;
}

static bool attr_visible(int n)
{
	switch (n) {
	case TSM_REPORT_GENERATION:
	case TSM_REPORT_PROVIDER:
		return true;
	case TSM_REPORT_PRIVLEVEL:
	case TSM_REPORT_PRIVLEVEL_FLOOR:
		return is_snp();
	}
	return false;
}

static bool bin_attr_visible(int n)
{
	switch (n) {
	case TSM_REPORT_INBLOB:
	case TSM_REPORT_OUTBLOB:
		return true;
	case TSM_REPORT_AUXBLOB:
		return is_snp();
	}
	return false;
}

static struct tsm_ops ops = {
	.report_new = report_new,
	.report_attr_visible = attr_visible,
	.report_bin_attr_visible = bin_attr_visible,
};

static ssize_t dev_read(struct file *file, char __user *to, size_t size, loff_t *at)
{
	if (size < sizeof(request))
		return -EINVAL;
	if (wait_for_completion_interruptible(&asked))
		return -ERESTARTSYS;
	return copy_to_user(to, &request, sizeof(request)) ? -EFAULT : sizeof(request);
}

static u8 *copy_blob(const char __user *from, u32 len)
{
	u8 *blob = kvzalloc(max_t(u32, len, 1), GFP_KERNEL);

	if (blob && copy_from_user(blob, from, len)) {
		kvfree(blob);
		blob = NULL;
	}
	return blob;
}

static ssize_t dev_write(struct file *file, const char __user *from, size_t size, loff_t *at)
{
	if (size < sizeof(answer) || copy_from_user(&answer, from, sizeof(answer)))
		return -EINVAL;
	if (answer.quote_len > LARGEST || answer.aux_len > LARGEST ||
	    size != sizeof(answer) + answer.quote_len + answer.aux_len)
		return -EINVAL;
	quote = answer.error ? NULL : copy_blob(from + sizeof(answer), answer.quote_len);
	aux = answer.error ? NULL :
	      copy_blob(from + sizeof(answer) + answer.quote_len, answer.aux_len);
	complete(&answered);
	return size;
}

static const struct file_operations fops = {
	.owner = THIS_MODULE,
	.read = dev_read,
	.write = dev_write,
};

static struct miscdevice device = {
	.minor = MISC_DYNAMIC_MINOR,
	.name = "lucid-faketsm",
	.fops = &fops,
};

static int __init faketsm_init(void)
{
	int error = misc_register(&device);

	if (error)
		return error;
	ops.name = provider;
	ops.privlevel_floor = floor;
	error = tsm_register(&ops, NULL);
	if (error)
		misc_deregister(&device);
	return error;
}

static void __exit faketsm_exit(void)
{
	tsm_unregister(&ops);
	misc_deregister(&device);
}

module_init(faketsm_init);
module_exit(faketsm_exit);
MODULE_DESCRIPTION("configfs-tsm provider whose quotes are made in user space, for tests");
MODULE_LICENSE("GPL");
