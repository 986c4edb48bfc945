/*
 * init.c
 *	  What happens when the library is loaded.
 */
#include "postgres.h"

#include "compat.h"
#include "fmgr.h"
#include "guc.h"
#include "inline.h"
#include "launcher.h"
#include "miscadmin.h"
#include "redirect.h"
#include "utility.h"
#include "wakeup.h"

PG_MODULE_MAGIC;

/* Defines the settings and joins the layers that may not know each other. */
void
_PG_init(void)
{
	EsGucInit();
	EsInlineInit();
	EsRedirectInit();
	EsUtilityInit();
	if (!process_shared_preload_libraries_in_progress)
		return;
	EsWakeupInit();
	EsLauncherInit();
}
