#!/usr/bin/env python3
"""Consumers in Python, for the database that subscriber.sql has made.

    subscriber.py turnover   keeps the table turnover: each event counts exactly once
    subscriber.py mails      sends mails (it adds lines to mails.txt): at least once

Needs psycopg2 (Debian: python3-psycopg2).  The database is that of PGDATABASE,
PGHOST and so on, as for psql.  SIGTERM or Ctrl-C ends a consumer when it has
finished the events that it has fetched.  One that is killed or loses its connection loses
nothing: what it had not acknowledged is delivered again.  Run as many as the
subscription has partitions.
"""
import os
import signal
import socket
import sys
from decimal import Decimal, InvalidOperation

import psycopg2
from psycopg2 import errors, extensions, extras

FETCH = "SELECT * FROM es.fetch(%s, max_count => %s, consumer => %s, wait => '10s')"
UPSERT = """INSERT INTO turnover AS t (product, orders, amount) VALUES (%s, %s, %s)
    ON CONFLICT (product) DO UPDATE SET orders = t.orders + excluded.orders, amount = t.amount + excluded.amount"""


class Consumer:
    def __init__(self, subscription, max_count):
        # Lets Python handle signals while it waits for the server.
        extensions.set_wait_callback(extras.wait_select)
        self.connection = psycopg2.connect("", cursor_factory=extras.NamedTupleCursor)
        self.arguments = subscription, max_count, f"{socket.gethostname()}:{os.getpid()}"
        self.stopping = self.fetching = False
        signal.signal(signal.SIGTERM, self.stop)
        signal.signal(signal.SIGINT, self.stop)

    def stop(self, *_):
        self.stopping = True
        if self.fetching:
            self.connection.cancel()

    def fetch(self, cursor):
        """Waits for events; returns none after a while, or when told to stop."""
        self.fetching = True
        try:
            if self.stopping:
                return []
            cursor.execute(FETCH, self.arguments)
            return cursor.fetchall()
        except errors.QueryCanceled:
            if self.stopping:
                return []
            raise
        finally:
            self.fetching = False


def turnover():
    """One transaction fetches, works and acknowledges: if it fails, nothing has happened.

    An event that can't be handled doesn't make it fail.  What came before it counts,
    and the server is told of it: it comes again, with those after it, and is put
    aside when it has come too often.
    """
    consumer = Consumer("turnover", 1000)
    while not consumer.stopping:
        with consumer.connection, consumer.connection.cursor() as cursor:
            sums, done, failure = {}, None, None
            events = consumer.fetch(cursor)
            for event in events:
                try:
                    add(sums, event.data["product"], Decimal(str(event.data["price"])))
                except (KeyError, InvalidOperation) as error:
                    failure = event.lease_id, event.position, repr(error)
                    break
                done = event.lease_id, event.position
            for product in sorted(sums):  # in the same order as every other consumer: no deadlocks
                cursor.execute(UPSERT, (product, *sums[product]))
            if done:
                cursor.execute("SELECT es.ack(%s, %s)", done)
            if failure:
                cursor.execute("SELECT es.nack(%s, %s, %s)", failure)


def add(sums, product, price):
    orders, amount = sums.get(product, (0, 0))
    sums[product] = orders + 1, amount + price


def mails():
    """Fetches, works and acknowledges in transactions of their own.

    Who dies between send() and es.ack() leaves the event to the next one, which
    sends it again.  So the mail bears the event's id, by which a receiver can
    tell that it knows it.  Few events at a time, so that the lease (30 s) lasts
    for all of them; where it might not, es.extend_lease() makes it longer.
    """
    consumer = Consumer("mails", 10)
    consumer.connection.autocommit = True
    with consumer.connection.cursor() as cursor:
        while not consumer.stopping:
            for event in consumer.fetch(cursor):
                try:
                    send(event)
                except (KeyError, ValueError) as error:
                    cursor.execute("SELECT es.nack(%s, %s, %s)",
                                   (event.lease_id, event.position, str(error)))
                    break  # the lease is given back with what is left of it
                try:
                    cursor.execute("SELECT es.ack(%s, %s)", (event.lease_id, event.position))
                except psycopg2.Error as error:
                    if error.pgcode != "SE012":
                        raise
                    break  # too slow: somebody else has taken over


def send(event):
    if "@" not in event.data["mail"]:
        raise ValueError(f"{event.data['mail']} is not an address")
    with open("mails.txt", "a", encoding="utf-8") as file:
        file.write(f"{event.event_id} {event.data['mail']} {event.event_type} {event.aggregate_id}\n")


if __name__ == "__main__":
    consumers = {"turnover": turnover, "mails": mails}
    if len(sys.argv) != 2 or sys.argv[1] not in consumers:
        sys.exit(__doc__)
    consumers[sys.argv[1]]()
