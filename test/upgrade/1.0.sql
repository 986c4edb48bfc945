--
-- PostgreSQL database dump
--


-- Dumped from database version 15.18
-- Dumped by pg_dump version 15.18

SET statement_timeout = 0;
SET lock_timeout = 0;
SET idle_in_transaction_session_timeout = 0;
SET client_encoding = 'UTF8';
SET standard_conforming_strings = on;
SELECT pg_catalog.set_config('search_path', '', false);
SET check_function_bodies = false;
SET xmloption = content;
SET client_min_messages = warning;
SET row_security = off;

--
-- Name: bank; Type: SCHEMA; Schema: -; Owner: -
--

CREATE SCHEMA bank;


--
-- Name: es; Type: SCHEMA; Schema: -; Owner: -
--

CREATE SCHEMA es;


--
-- Name: pg_eventsourcing; Type: EXTENSION; Schema: -; Owner: -
--

CREATE EXTENSION IF NOT EXISTS pg_eventsourcing WITH SCHEMA es;


--
-- Name: EXTENSION pg_eventsourcing; Type: COMMENT; Schema: -; Owner: -
--

COMMENT ON EXTENSION pg_eventsourcing IS 'event sourcing: an append-only event log, projections and replay';


SET default_tablespace = '';

SET default_table_access_method = heap;

--
-- Name: account; Type: TABLE; Schema: bank; Owner: -
--

CREATE TABLE bank.account (
    id text NOT NULL,
    balance numeric NOT NULL
);


--
-- Name: account_apply(bank.account, es.events); Type: FUNCTION; Schema: bank; Owner: -
--

CREATE FUNCTION bank.account_apply(state bank.account, event es.events) RETURNS bank.account
    LANGUAGE sql IMMUTABLE
    RETURN ROW((event).aggregate_id, (COALESCE((state).balance, (0)::numeric) + (((event).data ->> 'n'::text))::numeric))::bank.account;


--
-- Name: by_hour; Type: TABLE; Schema: bank; Owner: -
--

CREATE TABLE bank.by_hour (
    hour integer NOT NULL,
    currency text NOT NULL,
    n bigint NOT NULL
)
PARTITION BY RANGE (hour);


--
-- Name: by_hour_apply(bank.by_hour, es.events); Type: FUNCTION; Schema: bank; Owner: -
--

CREATE FUNCTION bank.by_hour_apply(state bank.by_hour, event es.events) RETURNS bank.by_hour
    LANGUAGE sql IMMUTABLE
    RETURN ROW((EXTRACT(hour FROM ((event).occurred_at AT TIME ZONE 'UTC'::text)))::integer, (event).source, (COALESCE((state).n, (0)::bigint) + 1))::bank.by_hour;


--
-- Name: later; Type: TABLE; Schema: bank; Owner: -
--

CREATE TABLE bank.later (
    id text NOT NULL,
    balance numeric NOT NULL
);


--
-- Name: later_apply(bank.later, es.events); Type: FUNCTION; Schema: bank; Owner: -
--

CREATE FUNCTION bank.later_apply(state bank.later, event es.events) RETURNS bank.later
    LANGUAGE plpgsql IMMUTABLE
    AS $$BEGIN RETURN ROW(event.aggregate_id, coalesce(state.balance, 0) + (event.data->>'n')::numeric); END$$;


--
-- Name: off; Type: TABLE; Schema: bank; Owner: -
--

CREATE TABLE bank.off (
    id text NOT NULL,
    balance numeric NOT NULL
);


--
-- Name: off_apply(bank.off, es.events); Type: FUNCTION; Schema: bank; Owner: -
--

CREATE FUNCTION bank.off_apply(state bank.off, event es.events) RETURNS bank.off
    LANGUAGE sql IMMUTABLE
    RETURN ROW((event).aggregate_id, (COALESCE((state).balance, (0)::numeric) + (((event).data ->> 'n'::text))::numeric))::bank.off;


--
-- Name: by_hour_am; Type: TABLE; Schema: bank; Owner: -
--

CREATE TABLE bank.by_hour_am (
    hour integer NOT NULL,
    currency text NOT NULL,
    n bigint NOT NULL
);


--
-- Name: by_hour_pm; Type: TABLE; Schema: bank; Owner: -
--

CREATE TABLE bank.by_hour_pm (
    hour integer NOT NULL,
    currency text NOT NULL,
    n bigint NOT NULL
);


--
-- Name: line; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.line (
    "position" bigint NOT NULL,
    n numeric
);


--
-- Name: total; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.total (
    id text NOT NULL,
    n numeric NOT NULL
);


--
-- Name: by_hour_am; Type: TABLE ATTACH; Schema: bank; Owner: -
--

ALTER TABLE ONLY bank.by_hour ATTACH PARTITION bank.by_hour_am FOR VALUES FROM (0) TO (12);


--
-- Name: by_hour_pm; Type: TABLE ATTACH; Schema: bank; Owner: -
--

ALTER TABLE ONLY bank.by_hour ATTACH PARTITION bank.by_hour_pm FOR VALUES FROM (12) TO (24);


--
-- Data for Name: account; Type: TABLE DATA; Schema: bank; Owner: -
--

COPY bank.account (id, balance) FROM stdin;
5	236
6	244
0	252
1	261
3	279
4	288
2	275
\.


--
-- Data for Name: by_hour_am; Type: TABLE DATA; Schema: bank; Owner: -
--

COPY bank.by_hour_am (hour, currency, n) FROM stdin;
1	EUR	3
2	USD	3
4	EUR	3
5	USD	3
7	EUR	3
8	USD	3
10	EUR	3
11	USD	3
\.


--
-- Data for Name: by_hour_pm; Type: TABLE DATA; Schema: bank; Owner: -
--

COPY bank.by_hour_pm (hour, currency, n) FROM stdin;
13	EUR	2
14	USD	2
16	EUR	2
17	USD	2
19	EUR	2
20	USD	2
22	EUR	2
23	USD	2
\.


--
-- Data for Name: later; Type: TABLE DATA; Schema: bank; Owner: -
--

COPY bank.later (id, balance) FROM stdin;
5	236
6	244
0	252
1	261
2	270
3	279
4	288
\.


--
-- Data for Name: off; Type: TABLE DATA; Schema: bank; Owner: -
--

COPY bank.off (id, balance) FROM stdin;
5	236
6	244
0	252
1	261
2	270
3	279
4	288
\.


--
-- Data for Name: events; Type: TABLE DATA; Schema: es; Owner: -
--

COPY es.events ("position", version, recorded_at, occurred_at, event_id, schema_version, aggregate_type, aggregate_id, event_type, source, correlation_id, causation_id, data, metadata) FROM stdin;
1	1	2026-11-21 07:08:09.819616+00	2026-01-01 01:00:00+00	01a1fcef-16db-79db-b105-8be1d4769d7f	2	account	1	Noted	EUR	request 0	cause	{"n": 1}	{"user": "ada"}
2	1	2026-11-21 07:08:09.820605+00	2026-01-01 02:00:00+00	01a1fcef-16dc-79ae-ac1a-cb8214ea5d00	2	account	2	Noted	USD	request 0	cause	{"n": 2}	{"user": "ada"}
3	1	2026-11-21 07:08:09.82071+00	2026-01-01 03:00:00+00	01a1fcef-16dc-7b5c-8d75-0c1c5a4adcf1	2	account	3	Noted	\N	request 1	cause	{"n": 3}	{"user": "ada"}
4	1	2026-11-21 07:08:09.820767+00	2026-01-01 04:00:00+00	01a1fcef-16dc-7c45-8ec5-cb5b2ef89059	2	account	4	Noted	EUR	request 1	cause	{"n": 4}	{"user": "ada"}
5	1	2026-11-21 07:08:09.820837+00	2026-01-01 05:00:00+00	01a1fcef-16dc-7d64-8c4f-6ac79c2cafa5	2	account	5	Noted	USD	request 1	cause	{"n": 5}	{"user": "ada"}
6	1	2026-11-21 07:08:09.820897+00	2026-01-01 06:00:00+00	01a1fcef-16dc-7e5a-a28d-35858c621f55	2	account	6	Noted	\N	request 2	cause	{"n": 6}	{"user": "ada"}
7	1	2026-11-21 07:08:09.820949+00	2026-01-01 07:00:00+00	01a1fcef-16dc-7f2f-bc67-13f0dadb5425	2	account	0	Noted	EUR	request 2	cause	{"n": 7}	{"user": "ada"}
8	2	2026-11-21 07:08:09.821005+00	2026-01-01 08:00:00+00	01a1fcef-16dd-7014-b6e3-59a8e7051266	2	account	1	Noted	USD	request 2	cause	{"n": 8}	{"user": "ada"}
9	2	2026-11-21 07:08:09.821105+00	2026-01-01 09:00:00+00	01a1fcef-16dd-71ae-91f7-cf52fff43cff	2	account	2	Noted	\N	request 3	cause	{"n": 9}	{"user": "ada"}
10	2	2026-11-21 07:08:09.82115+00	2026-01-01 10:00:00+00	01a1fcef-16dd-7266-8ab7-fbd182aa6225	2	account	3	Noted	EUR	request 3	cause	{"n": 10}	{"user": "ada"}
11	2	2026-11-21 07:08:09.821204+00	2026-01-01 11:00:00+00	01a1fcef-16dd-7343-97a8-ff94cb0a1d01	2	account	4	Noted	USD	request 3	cause	{"n": 11}	{"user": "ada"}
12	2	2026-11-21 07:08:09.821259+00	2026-01-01 12:00:00+00	01a1fcef-16dd-7424-864e-4f68d227c2b8	2	account	5	Noted	\N	request 4	cause	{"n": 12}	{"user": "ada"}
13	2	2026-11-21 07:08:09.821298+00	2026-01-01 13:00:00+00	01a1fcef-16dd-74c4-af7d-d2b9a5ecb69b	2	account	6	Noted	EUR	request 4	cause	{"n": 13}	{"user": "ada"}
14	2	2026-11-21 07:08:09.821475+00	2026-01-01 14:00:00+00	01a1fcef-16dd-7799-9708-8fab8e240db5	2	account	0	Noted	USD	request 4	cause	{"n": 14}	{"user": "ada"}
15	3	2026-11-21 07:08:09.821534+00	2026-01-01 15:00:00+00	01a1fcef-16dd-788b-9ca0-992b4461b69d	2	account	1	Noted	\N	request 5	cause	{"n": 15}	{"user": "ada"}
16	3	2026-11-21 07:08:09.821575+00	2026-01-01 16:00:00+00	01a1fcef-16dd-7933-ad8d-667594fe2017	2	account	2	Noted	EUR	request 5	cause	{"n": 16}	{"user": "ada"}
17	3	2026-11-21 07:08:09.821628+00	2026-01-01 17:00:00+00	01a1fcef-16dd-7a0c-abea-a2e4b6b4d56d	2	account	3	Noted	USD	request 5	cause	{"n": 17}	{"user": "ada"}
18	3	2026-11-21 07:08:09.82168+00	2026-01-01 18:00:00+00	01a1fcef-16dd-7ae1-ab30-21c80a4f6c20	2	account	4	Noted	\N	request 6	cause	{"n": 18}	{"user": "ada"}
19	3	2026-11-21 07:08:09.821723+00	2026-01-01 19:00:00+00	01a1fcef-16dd-7b91-b8fa-70357eb46432	2	account	5	Noted	EUR	request 6	cause	{"n": 19}	{"user": "ada"}
20	3	2026-11-21 07:08:09.821774+00	2026-01-01 20:00:00+00	01a1fcef-16dd-7c62-90a2-3f998e35d2d0	2	account	6	Noted	USD	request 6	cause	{"n": 20}	{"user": "ada"}
21	3	2026-11-21 07:08:09.821825+00	2026-01-01 21:00:00+00	01a1fcef-16dd-7d33-ab40-11aa129ebe7d	2	account	0	Noted	\N	request 7	cause	{"n": 21}	{"user": "ada"}
22	4	2026-11-21 07:08:09.821864+00	2026-01-01 22:00:00+00	01a1fcef-16dd-7dd2-b7cd-62e3680a2c5a	2	account	1	Noted	EUR	request 7	cause	{"n": 22}	{"user": "ada"}
23	4	2026-11-21 07:08:09.821915+00	2026-01-01 23:00:00+00	01a1fcef-16dd-7ea3-a634-580c05676787	2	account	2	Noted	USD	request 7	cause	{"n": 23}	{"user": "ada"}
24	4	2026-11-21 07:08:09.821984+00	2026-01-02 00:00:00+00	01a1fcef-16dd-7fbe-b2b4-4aa87a4bbc54	2	account	3	Noted	\N	request 8	cause	{"n": 24}	{"user": "ada"}
25	4	2026-11-21 07:08:09.822031+00	2026-01-02 01:00:00+00	01a1fcef-16de-707e-a816-aab7b8a73f56	2	account	4	Noted	EUR	request 8	cause	{"n": 25}	{"user": "ada"}
26	4	2026-11-21 07:08:09.822104+00	2026-01-02 02:00:00+00	01a1fcef-16de-71a9-a84d-8dc5123c56a4	2	account	5	Noted	USD	request 8	cause	{"n": 26}	{"user": "ada"}
27	4	2026-11-21 07:08:09.822157+00	2026-01-02 03:00:00+00	01a1fcef-16de-7283-a5de-2c2a4963601f	2	account	6	Noted	\N	request 9	cause	{"n": 27}	{"user": "ada"}
28	4	2026-11-21 07:08:09.822195+00	2026-01-02 04:00:00+00	01a1fcef-16de-731e-9330-0ad4206184f1	2	account	0	Noted	EUR	request 9	cause	{"n": 28}	{"user": "ada"}
29	5	2026-11-21 07:08:09.822247+00	2026-01-02 05:00:00+00	01a1fcef-16de-73f3-8a7b-e5b5a8d21b7f	2	account	1	Noted	USD	request 9	cause	{"n": 29}	{"user": "ada"}
30	5	2026-11-21 07:08:09.822298+00	2026-01-02 06:00:00+00	01a1fcef-16de-74c4-99f3-2aea0770f6b7	2	account	2	Noted	\N	request 10	cause	{"n": 30}	{"user": "ada"}
31	5	2026-11-21 07:08:09.822337+00	2026-01-02 07:00:00+00	01a1fcef-16de-7564-93e2-eeab6e5766a2	2	account	3	Noted	EUR	request 10	cause	{"n": 31}	{"user": "ada"}
32	5	2026-11-21 07:08:09.822387+00	2026-01-02 08:00:00+00	01a1fcef-16de-7631-beab-e3d060d516be	2	account	4	Noted	USD	request 10	cause	{"n": 32}	{"user": "ada"}
33	5	2026-11-21 07:08:09.822452+00	2026-01-02 09:00:00+00	01a1fcef-16de-773b-a89b-43776480f0a0	2	account	5	Noted	\N	request 11	cause	{"n": 33}	{"user": "ada"}
34	5	2026-11-21 07:08:09.822506+00	2026-01-02 10:00:00+00	01a1fcef-16de-7818-9f15-b07f0cc0ab16	2	account	6	Noted	EUR	request 11	cause	{"n": 34}	{"user": "ada"}
35	5	2026-11-21 07:08:09.822559+00	2026-01-02 11:00:00+00	01a1fcef-16de-78f1-a8ec-e0de168da7d7	2	account	0	Noted	USD	request 11	cause	{"n": 35}	{"user": "ada"}
36	6	2026-11-21 07:08:09.82261+00	2026-01-02 12:00:00+00	01a1fcef-16de-79c2-ae96-275d82baa606	2	account	1	Noted	\N	request 12	cause	{"n": 36}	{"user": "ada"}
37	6	2026-11-21 07:08:09.82265+00	2026-01-02 13:00:00+00	01a1fcef-16de-7a66-bc6b-6a03f61155e4	2	account	2	Noted	EUR	request 12	cause	{"n": 37}	{"user": "ada"}
38	6	2026-11-21 07:08:09.822713+00	2026-01-02 14:00:00+00	01a1fcef-16de-7b68-b353-5fe86f8342fa	2	account	3	Noted	USD	request 12	cause	{"n": 38}	{"user": "ada"}
39	6	2026-11-21 07:08:09.822764+00	2026-01-02 15:00:00+00	01a1fcef-16de-7c39-aac6-84f27394c492	2	account	4	Noted	\N	request 13	cause	{"n": 39}	{"user": "ada"}
40	6	2026-11-21 07:08:09.822804+00	2026-01-02 16:00:00+00	01a1fcef-16de-7cdd-a5fb-67ff43aa24d4	2	account	5	Noted	EUR	request 13	cause	{"n": 40}	{"user": "ada"}
41	6	2026-11-21 07:08:09.822855+00	2026-01-02 17:00:00+00	01a1fcef-16de-7dae-8a52-ee6d9b8306de	2	account	6	Noted	USD	request 13	cause	{"n": 41}	{"user": "ada"}
42	6	2026-11-21 07:08:09.82291+00	2026-01-02 18:00:00+00	01a1fcef-16de-7e8f-ae8d-ee773c5fdfe0	2	account	0	Noted	\N	request 14	cause	{"n": 42}	{"user": "ada"}
43	7	2026-11-21 07:08:09.82295+00	2026-01-02 19:00:00+00	01a1fcef-16de-7f33-bcda-96e36bea87ef	2	account	1	Noted	EUR	request 14	cause	{"n": 43}	{"user": "ada"}
44	7	2026-11-21 07:08:09.823001+00	2026-01-02 20:00:00+00	01a1fcef-16df-7004-a676-618f7b94ef37	2	account	2	Noted	USD	request 14	cause	{"n": 44}	{"user": "ada"}
45	7	2026-11-21 07:08:09.823051+00	2026-01-02 21:00:00+00	01a1fcef-16df-70d0-beba-5d26288335b0	2	account	3	Noted	\N	request 15	cause	{"n": 45}	{"user": "ada"}
46	7	2026-11-21 07:08:09.82309+00	2026-01-02 22:00:00+00	01a1fcef-16df-7170-8c37-db0893f04b1e	2	account	4	Noted	EUR	request 15	cause	{"n": 46}	{"user": "ada"}
47	7	2026-11-21 07:08:09.823141+00	2026-01-02 23:00:00+00	01a1fcef-16df-7241-917c-f061f5507b3c	2	account	5	Noted	USD	request 15	cause	{"n": 47}	{"user": "ada"}
48	7	2026-11-21 07:08:09.823191+00	2026-01-03 00:00:00+00	01a1fcef-16df-730e-984e-7ec3411fee0a	2	account	6	Noted	\N	request 16	cause	{"n": 48}	{"user": "ada"}
49	7	2026-11-21 07:08:09.823234+00	2026-01-03 01:00:00+00	01a1fcef-16df-73be-a50d-f9af8df32eef	2	account	0	Noted	EUR	request 16	cause	{"n": 49}	{"user": "ada"}
50	8	2026-11-21 07:08:09.823286+00	2026-01-03 02:00:00+00	01a1fcef-16df-7493-9c29-1c7feaf6d508	2	account	1	Noted	USD	request 16	cause	{"n": 50}	{"user": "ada"}
51	8	2026-11-21 07:08:09.82343+00	2026-01-03 03:00:00+00	01a1fcef-16df-76e1-9d34-24f1bcdf63a8	2	account	2	Noted	\N	request 17	cause	{"n": 51}	{"user": "ada"}
52	8	2026-11-21 07:08:09.823474+00	2026-01-03 04:00:00+00	01a1fcef-16df-7795-8488-a80569deda02	2	account	3	Noted	EUR	request 17	cause	{"n": 52}	{"user": "ada"}
53	8	2026-11-21 07:08:09.823527+00	2026-01-03 05:00:00+00	01a1fcef-16df-786e-a344-7959814e4e82	2	account	4	Noted	USD	request 17	cause	{"n": 53}	{"user": "ada"}
54	8	2026-11-21 07:08:09.823579+00	2026-01-03 06:00:00+00	01a1fcef-16df-7943-bb2d-09b7ca7e9177	2	account	5	Noted	\N	request 18	cause	{"n": 54}	{"user": "ada"}
55	8	2026-11-21 07:08:09.823618+00	2026-01-03 07:00:00+00	01a1fcef-16df-79e3-bb57-db5da884b189	2	account	6	Noted	EUR	request 18	cause	{"n": 55}	{"user": "ada"}
56	8	2026-11-21 07:08:09.823669+00	2026-01-03 08:00:00+00	01a1fcef-16df-7ab4-bef0-3dc4f480bd82	2	account	0	Noted	USD	request 18	cause	{"n": 56}	{"user": "ada"}
57	9	2026-11-21 07:08:09.823724+00	2026-01-03 09:00:00+00	01a1fcef-16df-7b95-8a3f-51d302929435	2	account	1	Noted	\N	request 19	cause	{"n": 57}	{"user": "ada"}
58	9	2026-11-21 07:08:09.823764+00	2026-01-03 10:00:00+00	01a1fcef-16df-7c39-90c8-65684437359b	2	account	2	Noted	EUR	request 19	cause	{"n": 58}	{"user": "ada"}
59	9	2026-11-21 07:08:09.823816+00	2026-01-03 11:00:00+00	01a1fcef-16df-7d0e-8001-082cf363c673	2	account	3	Noted	USD	request 19	cause	{"n": 59}	{"user": "ada"}
60	9	2026-11-21 07:08:09.823866+00	2026-01-03 12:00:00+00	01a1fcef-16df-7ddb-a19e-3086ff43b30d	2	account	4	Noted	\N	request 20	cause	{"n": 60}	{"user": "ada"}
62	1	2026-11-21 07:08:09.824819+00	2026-11-21 07:08:09.824819+00	01a1fcef-16e0-7d1a-a53f-1ad658380b63	1	other "type"	1\t\\	Odd	\N	\N	\N	{"n": "many"}	\N
63	10	2026-11-21 07:08:09.827129+00	2026-11-21 07:08:09.827129+00	01a1fcef-16e3-7210-b8a8-7e50253af500	1	account	2	Noted	\N	\N	\N	{"n": 5}	\N
\.


--
-- Data for Name: projection; Type: TABLE DATA; Schema: es; Owner: -
--

COPY es.projection (name, target, apply, key, aggregate_types, event_types, mode, on_error, protect, settings, enabled) FROM stdin;
account	bank.account	bank.account_apply(bank.account,es.events)	\N	{account}	\N	inline	stop	t	{"search_path=\\"$user\\", public, pg_temp",TimeZone=Etc/UTC,"DateStyle=ISO, MDY",IntervalStyle=postgres,extra_float_digits=1,bytea_output=hex,default_text_search_config=pg_catalog.english}	t
later	bank.later	bank.later_apply(bank.later,es.events)	\N	\N	\N	async	park	t	{"search_path=\\"$user\\", public, pg_temp",TimeZone=Etc/UTC,"DateStyle=ISO, MDY",IntervalStyle=postgres,extra_float_digits=1,bytea_output=hex,default_text_search_config=pg_catalog.english}	t
by hour	bank.by_hour	bank.by_hour_apply(bank.by_hour,es.events)	extract(hour FROM occurred_at AT TIME ZONE 'UTC')::integer, source	\N	\N	inline	stop	t	{"search_path=\\"$user\\", public, pg_temp",TimeZone=Etc/UTC,"DateStyle=ISO, MDY",IntervalStyle=postgres,extra_float_digits=1,bytea_output=hex,default_text_search_config=pg_catalog.english}	t
line	public.line	\N	\N	\N	\N	inline	stop	t	{"search_path=\\"$user\\", public, pg_temp",TimeZone=Etc/UTC,"DateStyle=ISO, MDY",IntervalStyle=postgres,extra_float_digits=1,bytea_output=hex,default_text_search_config=pg_catalog.english}	t
total	public.total	\N	\N	\N	{Noted}	async	stop	t	{"search_path=\\"$user\\", public, pg_temp",TimeZone=Etc/UTC,"DateStyle=ISO, MDY",IntervalStyle=postgres,extra_float_digits=1,bytea_output=hex,default_text_search_config=pg_catalog.english}	t
off	bank.off	bank.off_apply(bank.off,es.events)	\N	{account}	\N	inline	stop	f	{"search_path=\\"$user\\", public, pg_temp",TimeZone=Etc/UTC,"DateStyle=ISO, MDY",IntervalStyle=postgres,extra_float_digits=1,bytea_output=hex,default_text_search_config=pg_catalog.english}	f
\.


--
-- Data for Name: projection_checkpoint; Type: TABLE DATA; Schema: es; Owner: -
--

COPY es.projection_checkpoint (projection, checkpoint, stopped, error, error_position) FROM stdin;
off	61	f	\N	\N
total	62	f	\N	\N
later	62	f	invalid input syntax for type numeric: "many"	62
\.


--
-- Data for Name: projection_handler; Type: TABLE DATA; Schema: es; Owner: -
--

COPY es.projection_handler (projection, event_type, batch, statement) FROM stdin;
line	Noted	f	INSERT INTO line VALUES (event.position, (event.data->>'n')::numeric)
line	\N	f	SELECT
total	\N	t	\n\tINSERT INTO total AS t SELECT aggregate_id, sum((data->>'n')::numeric) FROM events GROUP BY 1\n\tON CONFLICT (id) DO UPDATE SET n = t.n + excluded.n
\.


--
-- Data for Name: projection_parked; Type: TABLE DATA; Schema: es; Owner: -
--

COPY es.projection_parked (projection, "position", reason, parked_at) FROM stdin;
later	62	invalid input syntax for type numeric: "many"	2026-11-21 07:08:09.826786+00
\.


--
-- Data for Name: line; Type: TABLE DATA; Schema: public; Owner: -
--

COPY public.line ("position", n) FROM stdin;
1	1
2	2
3	3
4	4
5	5
6	6
7	7
8	8
9	9
10	10
11	11
12	12
13	13
14	14
15	15
16	16
17	17
18	18
19	19
20	20
21	21
22	22
23	23
24	24
25	25
26	26
27	27
28	28
29	29
30	30
31	31
32	32
33	33
34	34
35	35
36	36
37	37
38	38
39	39
40	40
41	41
42	42
43	43
44	44
45	45
46	46
47	47
48	48
49	49
50	50
51	51
52	52
53	53
54	54
55	55
56	56
57	57
58	58
59	59
60	60
63	5
\.


--
-- Data for Name: total; Type: TABLE DATA; Schema: public; Owner: -
--

COPY public.total (id, n) FROM stdin;
4	288
6	244
3	279
2	270
5	236
0	252
1	261
\.


--
-- Name: events_position_seq; Type: SEQUENCE SET; Schema: es; Owner: -
--

SELECT pg_catalog.setval('es.events_position_seq', 63, true);


--
-- Name: account account_pkey; Type: CONSTRAINT; Schema: bank; Owner: -
--

ALTER TABLE ONLY bank.account
    ADD CONSTRAINT account_pkey PRIMARY KEY (id);


--
-- Name: by_hour by_hour_pkey; Type: CONSTRAINT; Schema: bank; Owner: -
--

ALTER TABLE ONLY bank.by_hour
    ADD CONSTRAINT by_hour_pkey PRIMARY KEY (hour, currency);


--
-- Name: by_hour_am by_hour_am_pkey; Type: CONSTRAINT; Schema: bank; Owner: -
--

ALTER TABLE ONLY bank.by_hour_am
    ADD CONSTRAINT by_hour_am_pkey PRIMARY KEY (hour, currency);


--
-- Name: by_hour_pm by_hour_pm_pkey; Type: CONSTRAINT; Schema: bank; Owner: -
--

ALTER TABLE ONLY bank.by_hour_pm
    ADD CONSTRAINT by_hour_pm_pkey PRIMARY KEY (hour, currency);


--
-- Name: later later_pkey; Type: CONSTRAINT; Schema: bank; Owner: -
--

ALTER TABLE ONLY bank.later
    ADD CONSTRAINT later_pkey PRIMARY KEY (id);


--
-- Name: off off_pkey; Type: CONSTRAINT; Schema: bank; Owner: -
--

ALTER TABLE ONLY bank.off
    ADD CONSTRAINT off_pkey PRIMARY KEY (id);


--
-- Name: line line_pkey; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.line
    ADD CONSTRAINT line_pkey PRIMARY KEY ("position");


--
-- Name: total total_pkey; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.total
    ADD CONSTRAINT total_pkey PRIMARY KEY (id);


--
-- Name: account_balance_idx; Type: INDEX; Schema: bank; Owner: -
--

CREATE INDEX account_balance_idx ON bank.account USING btree (balance);


--
-- Name: by_hour_am_pkey; Type: INDEX ATTACH; Schema: bank; Owner: -
--

ALTER INDEX bank.by_hour_pkey ATTACH PARTITION bank.by_hour_am_pkey;


--
-- Name: by_hour_pm_pkey; Type: INDEX ATTACH; Schema: bank; Owner: -
--

ALTER INDEX bank.by_hour_pkey ATTACH PARTITION bank.by_hour_pm_pkey;


--
-- Name: account es_protect; Type: TRIGGER; Schema: bank; Owner: -
--

CREATE TRIGGER es_protect BEFORE INSERT OR DELETE OR UPDATE OR TRUNCATE ON bank.account FOR EACH STATEMENT EXECUTE FUNCTION es.refuse_direct_write();

ALTER TABLE bank.account ENABLE ALWAYS TRIGGER es_protect;


--
-- Name: by_hour es_protect; Type: TRIGGER; Schema: bank; Owner: -
--

CREATE TRIGGER es_protect BEFORE INSERT OR DELETE OR UPDATE OR TRUNCATE ON bank.by_hour FOR EACH STATEMENT EXECUTE FUNCTION es.refuse_direct_write();

ALTER TABLE bank.by_hour ENABLE ALWAYS TRIGGER es_protect;


--
-- Name: by_hour_am es_protect; Type: TRIGGER; Schema: bank; Owner: -
--

CREATE TRIGGER es_protect BEFORE INSERT OR DELETE OR UPDATE OR TRUNCATE ON bank.by_hour_am FOR EACH STATEMENT EXECUTE FUNCTION es.refuse_direct_write();

ALTER TABLE bank.by_hour_am ENABLE ALWAYS TRIGGER es_protect;


--
-- Name: by_hour_pm es_protect; Type: TRIGGER; Schema: bank; Owner: -
--

CREATE TRIGGER es_protect BEFORE INSERT OR DELETE OR UPDATE OR TRUNCATE ON bank.by_hour_pm FOR EACH STATEMENT EXECUTE FUNCTION es.refuse_direct_write();

ALTER TABLE bank.by_hour_pm ENABLE ALWAYS TRIGGER es_protect;


--
-- Name: later es_protect; Type: TRIGGER; Schema: bank; Owner: -
--

CREATE TRIGGER es_protect BEFORE INSERT OR DELETE OR UPDATE OR TRUNCATE ON bank.later FOR EACH STATEMENT EXECUTE FUNCTION es.refuse_direct_write();

ALTER TABLE bank.later ENABLE ALWAYS TRIGGER es_protect;


--
-- Name: off es_protect; Type: TRIGGER; Schema: bank; Owner: -
--

CREATE TRIGGER es_protect BEFORE INSERT OR DELETE OR UPDATE OR TRUNCATE ON bank.off FOR EACH STATEMENT EXECUTE FUNCTION es.refuse_direct_write();

ALTER TABLE bank.off DISABLE TRIGGER es_protect;


--
-- Name: line es_protect; Type: TRIGGER; Schema: public; Owner: -
--

CREATE TRIGGER es_protect BEFORE INSERT OR DELETE OR UPDATE OR TRUNCATE ON public.line FOR EACH STATEMENT EXECUTE FUNCTION es.refuse_direct_write();

ALTER TABLE public.line ENABLE ALWAYS TRIGGER es_protect;


--
-- Name: total es_protect; Type: TRIGGER; Schema: public; Owner: -
--

CREATE TRIGGER es_protect BEFORE INSERT OR DELETE OR UPDATE OR TRUNCATE ON public.total FOR EACH STATEMENT EXECUTE FUNCTION es.refuse_direct_write();

ALTER TABLE public.total ENABLE ALWAYS TRIGGER es_protect;


--
-- PostgreSQL database dump complete
--


