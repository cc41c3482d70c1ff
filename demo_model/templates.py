"""Sentence templates of the demo language; `{slots}` are filled by `grammar.py`."""

from __future__ import annotations

TEMPLATES: tuple[str, ...] = tuple(
    line.strip()
    for line in """
    turn on the {device} in the {room}
    turn off the {device}
    please turn off the {room} {device}
    switch the {device} on {when}
    set the {device} to {small} degrees
    set an alarm for {clock}
    wake me up at {clock} {day}
    set a timer for {small} minutes
    remind me to {verb} the {thing} {when}
    remind me to call {first} {when}
    call {name} please
    call my {person} at the {place}
    send a message to {first} that i will be late
    tell {first} that the meeting starts at {clock}
    what is the weather in {city} {when}
    will it be {weather} in {city} {when}
    it is {weather} and {weather} in {city}
    how is the weather in {country} in {month}
    play some {music} music in the {room}
    play {music} and {music} music
    stop the music please
    turn the volume up to {small} percent
    what time is it in {city}
    it is {clock} now
    the time is {clock}
    today is {day} {date}
    my birthday is on {date}
    i was born in {city} in {year}
    she was born on {date} {year}
    i would like to book a table for {small} at {clock}
    i want to book a flight from {city} to {city} {when}
    i need a hotel in {city} for {small} days
    how much does a ticket to {city} cost
    a ticket to {city} costs {money}
    the train to {city} leaves at {clock}
    when does the next bus to {city} leave
    the flight from {city} was {small} minutes late
    i would like to cancel my {item}
    i have a question about my {item}
    can you check the status of my {item}
    could you help me with my {item} please
    i want to change my {item}
    my {item} has not arrived yet
    where is my {item}
    my {item} number is {digits6}
    the {item} number is {digits4} {digits3}
    my phone number is {digits3} {digits4}
    the code is {nato} {nato} {digits3}
    the last four digits are {digits4}
    please confirm your {item}
    can i speak to an agent please
    i would like to speak to the manager
    please connect me to {name}
    thank you for calling {company}
    welcome to {company} how can i help you today
    hello my name is {name}
    hello this is {first} from {company}
    my name is {name} and i live in {city}
    good morning {first} how are you today
    good evening this is {name} speaking
    thank you very much for your help
    no thank you that is all for {when}
    yes that is correct thank you
    that is not what i asked for
    sorry i did not understand the question
    could you repeat that please
    please hold the line for a moment
    i will call you back {when}
    we will send you the {item} {when}
    your {item} was {past} on {date}
    your {item} will arrive {when}
    the price is {money}
    it costs {money} for {small} {unit}
    i paid {money} for the {adj} {thing}
    the {adj} {thing} costs {money}
    please transfer {money} to {name}
    what is the balance of my account
    your balance is {money}
    i spent {money} on {food} and {drink}
    add {food} and {food} to my shopping list
    we need {food} {food} and {food}
    please buy {small} {food} and some {drink}
    i would like {food} with {food} please
    can i have a glass of {drink} please
    two cups of {drink} and a {food} sandwich
    do you have any {food} left
    i don't like {food} but i love {food}
    the {food} at the {place} is very {adj}
    dinner will be ready at {clock}
    how do you cook {food} with {food}
    the {adj} {animal} is behind the {place}
    there is a {color} {animal} in the {room}
    my {person} has a {color} {animal}
    the {animal} and the {animal} are {adj}
    have you ever seen a {adj} {animal}
    the {animal} {past} the {thing} {adv}
    i saw {small} {animal} pictures at the {place}
    the {thing} is on the {thing}
    the {color} {thing} is under the {adj} {thing}
    where did you put the {color} {thing}
    i can't find my {color} {thing}
    i {past} the {thing} at the {place} yesterday
    she {past} a {adj} {thing} for her {person}
    he {past} the {thing} and {past} the {thing}
    they {past} the {adj} {thing} in {city}
    we {past} our {person} {when}
    my {person} {past} the {thing} {adv}
    the {person} {adv} {past} the {adj} {thing}
    did you {verb} the {thing} {when}
    please {verb} the {color} {thing}
    can you {verb} this {adj} {thing} for me
    i {adv} {verb} the {thing} with my {person}
    you should {verb} your {person} {when}
    we must {verb} the {thing} before {clock}
    don't {verb} the {thing} without me
    let's {verb} the {thing} and {verb} the {thing}
    why did he {verb} the {adj} {person}
    she wants to {verb} and {verb} in {city}
    nobody can {verb} the {thing} like {first}
    how do i get to the {place}
    the {place} is near the {place}
    turn left at the {place} and go straight to the {place}
    is there a {place} near the {place}
    the {place} opens at {clock} and closes at {clock}
    the {adj} {place} in {city} is closed {when}
    let's meet at the {place} {when}
    i will be at the {place} {when}
    it is {small} {unit} from here to the {place}
    the {place} is {num} {unit} away
    my {person} works at a {place} in {city}
    my {person} is a {person}
    the {person} and the {person} went to {country}
    {first} and {first} are going to {country} {when}
    {first} {last} is a {adj} {person}
    {first} is {small} years old
    {first} plays {sport} with {first} on {day}
    do you like {sport} or {sport}
    we are learning {subject} and {subject}
    i study {subject} at the university of {city}
    my favorite subject is {subject}
    the {subject} lesson starts at {clock}
    the {adj} {person} is {adj} and {adj}
    i am {adj} but not {adj}
    this {thing} is too {adj} for me
    the {thing} was {adj} and very {adj}
    what a {adj} {adj} {thing}
    is the {thing} {color} or {color}
    {small} {unit} and {small} {unit}
    {num} {unit}
    {num} plus {num} is {num}
    {small} minus {small} is {small}
    {small} times {small} is {num}
    the answer is {num}
    the city has {big} people
    about {big} {unit} every year
    the company sold {big} {thing} in {year}
    in {year} the {person} moved to {country}
    it happened on {date} {year}
    the meeting is on {date} at {clock}
    the meeting with {first} was moved to {when}
    add a meeting with {name} {when}
    what is on my calendar {when}
    do i have any messages from {first}
    read my last message please
    open the {device} and close the {device}
    lock the front door at {clock}
    is the {device} in the {room} still on
    make the {room} warmer please
    the {device} in the {room} is broken
    somebody should repair the {device} {when}
    everything in the {room} is {color}
    i think that the {person} is {adj}
    he said that the {thing} was {adj}
    she told me that her {person} is {adj}
    if it is {weather} {when} we will stay at home
    when i was young i wanted to be a {person}
    the {ordinal} {thing} is {adj}
    he finished in {ordinal} place
    this is the {ordinal} time i ask
    chapter {small} page {num}
    room {num} on the {ordinal} floor
    gate {small} flight {digits3}
    the address is {num} {last} street {city}
    i live at {num} {last} road in {city}
    take the {ordinal} street on the right
    please spell your last name
    that is {nato} {nato} {nato} {nato}
    are you sure about that
    i am not sure what you mean
    have a nice day and goodbye
    see you {when} {first}
    happy birthday dear {first}
    tell me a joke about a {animal} and a {person}
    tell me something about {subject} in {country}
    what do you know about {country}
    how far is it from {city} to {city}
    who is the president of {country}
    translate good morning into {subject}
    which {thing} do you want the {color} one or the {color} one
    i want the {color} one please
    there are {small} {color} {thing} boxes in the {place}
    we have {small} people in the {room}
    between {clock} and {clock} on {day}
    from {day} to {day} at {clock}
    every {day} at {clock}
    {digits4}
    {digits6}
    {date} {year}
    the {rank} of {suit}
    {rank} of {suit} {rank} of {suit}
    {rank} of {suit} and {rank} of {suit} please
    {small} {rank} of {suit} {rank} of {suit}
    do you have the {rank} of {suit} or the {rank} of {suit}
    go {direction} {small} {unit}
    move {direction} by {small} {unit}
    turn {direction} and go {direction} {small} {unit}
    go somewhere else and {verb} the {thing}
    """.splitlines()
    if line.strip()
)
