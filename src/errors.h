/*
 * errors.h
 *	  The SQLSTATEs that pg_eventsourcing adds to PostgreSQL's own.
 *
 * Class SE lies in the range that the SQL standard leaves to implementations.
 * Where PostgreSQL has a fitting code (42501, 22023, 40001 ...), that is used.
 */
#ifndef ES_ERRORS_H
#define ES_ERRORS_H

#include "utils/elog.h"

#define ES_ERRCODE_WRONG_VERSION       MAKE_SQLSTATE('S', 'E', '0', '0', '1')
#define ES_ERRCODE_APPEND_ONLY         MAKE_SQLSTATE('S', 'E', '0', '0', '2')
#define ES_ERRCODE_EVENT_ID_REUSED     MAKE_SQLSTATE('S', 'E', '0', '0', '3')
#define ES_ERRCODE_PROTECTED_STATE     MAKE_SQLSTATE('S', 'E', '0', '0', '4')
#define ES_ERRCODE_MALFORMED_EVENT     MAKE_SQLSTATE('S', 'E', '0', '0', '5')
#define ES_ERRCODE_UNKNOWN_NAME        MAKE_SQLSTATE('S', 'E', '0', '0', '6')
#define ES_ERRCODE_INVALID_PROJECTION  MAKE_SQLSTATE('S', 'E', '0', '0', '7')
#define ES_ERRCODE_PROJECTION_FAILED   MAKE_SQLSTATE('S', 'E', '0', '0', '8')
#define ES_ERRCODE_REPLAY_NOT_POSSIBLE MAKE_SQLSTATE('S', 'E', '0', '0', '9')
#define ES_ERRCODE_LEASE_LOST          MAKE_SQLSTATE('S', 'E', '0', '1', '2')

#endif /* ES_ERRORS_H */
